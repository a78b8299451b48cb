"""Everything that may happen to a fleet happens to a small one, and nothing is lost."""

from __future__ import annotations

import pytest
from campaign import MISFORTUNES, Outcome, wage

pytestmark = pytest.mark.timeout(1200)
WEIGHTLESS, REAL = 60, 2


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return wage(
        tmp_path_factory.mktemp("chaos") / "fleet",
        seed=1,
        weightless=WEIGHTLESS,
        real=REAL,
        poisoned=1,
        rate=0.01,
        pause_s=0.2,
        is_long=False,
        patience_s=300.0,
        say=print,
    )


def test_everything_happened(outcome: Outcome) -> None:
    assert outcome.jobs >= WEIGHTLESS + REAL
    assert set(MISFORTUNES) - outcome.did.keys() == set()


def test_nothing_is_lost_or_done_twice_and_only_poison_is_given_up(outcome: Outcome) -> None:
    assert outcome.audit.faults == {}


def test_no_worker_ends_by_itself_or_leaves_a_process(outcome: Outcome) -> None:
    assert outcome.unexpected_ends == []
    assert outcome.processes_left == []
