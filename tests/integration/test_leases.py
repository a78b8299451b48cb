"""Leases on a real store: one holder at a time, renewed while it lives, free when it is gone."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from runtime_support import ShiftedClock

from corepress.adapters.embedded.store import FolderStore
from corepress.domain.errors import StoreUnavailable
from corepress.runtime import leases
from corepress.runtime.leases import LIFETIME_S, Lease, claim, held

RACERS = 8


class UnwillingStore(FolderStore):
    """A store that fails to write and to delete while it is told to."""

    is_failing = False

    def put(self, key: str, data: bytes) -> None:
        self._fail()
        super().put(key, data)

    def delete(self, key: str) -> None:
        self._fail()
        super().delete(key)

    def _fail(self) -> None:
        if self.is_failing:
            raise StoreUnavailable("no answer")


@pytest.fixture
def store(tmp_path: Path) -> UnwillingStore:
    return UnwillingStore(tmp_path)


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats in quick succession."""
    monkeypatch.setattr(leases, "LIFETIME_S", 0.03)


def until_s(store: FolderStore, lease: Lease) -> float:
    return float(json.loads(store.get(lease.key))["until_s"])


def wait_for_a_beat(store: FolderStore, lease: Lease, beyond_s: float) -> None:
    deadline_s = time.monotonic() + 30
    while until_s(store, lease) <= beyond_s:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_one_holder_at_a_time(store: UnwillingStore, clock: ShiftedClock) -> None:
    lease = claim(store, clock, "action", "a")
    assert lease is not None
    assert claim(store, clock, "action", "b") is None
    assert claim(store, clock, "other action", "b") is not None
    with held(store, clock, lease):
        assert claim(store, clock, "action", "b") is None
    assert claim(store, clock, "action", "b") is not None


def test_a_holder_that_is_gone_loses_it(store: UnwillingStore, clock: ShiftedClock) -> None:
    lost = claim(store, clock, "action", "a")
    clock.ahead_s += LIFETIME_S - 1
    assert claim(store, clock, "action", "b") is None
    clock.ahead_s += 2
    taken = claim(store, clock, "action", "b")
    assert taken not in (None, lost)
    assert claim(store, clock, "action", "c") is None


def test_a_holder_whose_clock_was_ahead_loses_it_too(
    store: UnwillingStore, clock: ShiftedClock
) -> None:
    clock.ahead_s = 3600.0
    lost = claim(store, clock, "action", "a")
    assert lost is not None
    clock.ahead_s = 0.0
    assert claim(store, clock, "action", "b") is None
    written_s = time.time() - LIFETIME_S - 1  # by the store's clock
    os.utime(store.root / lost.key, (written_s, written_s))
    assert claim(store, clock, "action", "b") is not None


def test_what_is_left_behind_tells_of_deaths(store: UnwillingStore, clock: ShiftedClock) -> None:
    for deaths in range(3):
        lease = claim(store, clock, "action", f"worker-{deaths}")
        assert lease is not None
        assert lease.deaths == deaths
        clock.ahead_s += LIFETIME_S + 1
    lease = claim(store, clock, "action", "last")
    assert lease is not None
    with held(store, clock, lease):
        leases.forget_deaths(store, lease)
        assert list(store.keys("leases/")) == [lease.key]
    again = claim(store, clock, "action", "another")
    assert again is not None
    assert again.deaths == 0


def test_a_holder_that_was_thought_gone_gives_nobody_elses_back(
    store: UnwillingStore, clock: ShiftedClock
) -> None:
    late = claim(store, clock, "action", "a")
    assert late is not None
    with held(store, clock, late):
        clock.ahead_s += LIFETIME_S + 1
        assert claim(store, clock, "action", "b") is not None
    assert claim(store, clock, "action", "c") is None


def test_a_worker_takes_its_own_again(store: UnwillingStore, clock: ShiftedClock) -> None:
    first = claim(store, clock, "action", "a")
    assert claim(store, clock, "action", "a") not in (None, first)


@pytest.mark.parametrize("expired", [False, True])
def test_one_racer_gets_it(tmp_path: Path, clock: ShiftedClock, expired: bool) -> None:
    for race in range(10):
        start = threading.Barrier(RACERS)

        def run(
            racer: int, start: threading.Barrier = start, action: str = f"action-{race}"
        ) -> Lease | None:
            store = FolderStore(tmp_path)
            start.wait()
            return claim(store, clock, action, str(racer))

        if expired:
            claim(FolderStore(tmp_path), clock, f"action-{race}", "gone")
            clock.ahead_s += LIFETIME_S + 1
        with ThreadPoolExecutor(RACERS) as pool:
            leases_got = [lease for lease in pool.map(run, range(RACERS)) if lease]
        assert len(leases_got) == 1


@pytest.mark.usefixtures("hasty")
def test_it_is_renewed_while_it_is_held(store: UnwillingStore, clock: ShiftedClock) -> None:
    lease = claim(store, clock, "action", "a")
    assert lease is not None
    with held(store, clock, lease):
        clock.ahead_s += 1000
        wait_for_a_beat(store, lease, time.time() + 900)
    assert list(store.keys("leases/")) == []


@pytest.mark.usefixtures("hasty")
def test_the_heart_beats_on_when_the_store_fails_for_a_while(
    store: UnwillingStore, clock: ShiftedClock
) -> None:
    lease = claim(store, clock, "action", "a")
    assert lease is not None
    with held(store, clock, lease):
        store.is_failing = True
        time.sleep(0.05)
        clock.ahead_s += 1000
        store.is_failing = False
        wait_for_a_beat(store, lease, time.time() + 900)


def fail_in_a_lease(store: UnwillingStore, clock: ShiftedClock, lease: Lease) -> None:
    with held(store, clock, lease):
        store.is_failing = True
        raise KeyError("what went wrong")


def test_a_store_that_fails_hides_no_error(store: UnwillingStore, clock: ShiftedClock) -> None:
    lease = claim(store, clock, "action", "a")
    assert lease is not None
    with pytest.raises(KeyError, match="what went wrong"):
        fail_in_a_lease(store, clock, lease)
