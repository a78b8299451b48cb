"""A worker that is killed between any two steps: whoever comes next finishes the job the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from interposed import GatedBus, GatedRunner, GatedStore
from runtime_support import Machine, stage_process

from corepress.adapters.embedded.bus import MemoryBus
from corepress.runtime import leases
from corepress.runtime.stage_process import StageProcess

T = TypeVar("T")
STEPS = ("fetch", "normalize", "convert-text_encoder")


class KilledError(BaseException):
    """What ends the worker; nothing in it may catch this."""


class Fuse:
    """Lets calls pass up to one, before or after which the process is dead."""

    def __init__(self, number: int, moment: str) -> None:
        self.calls = 0
        self.is_blown = False
        self._number = number
        self._moment = moment

    def through(self, call: Callable[[], T]) -> T:
        self.calls += 1
        is_last = self.calls == self._number
        if self.is_blown or (is_last and self._moment == "before"):
            self.is_blown = True
            raise KilledError
        try:
            return call()
        finally:
            if is_last:
                self.is_blown = True
                raise KilledError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def process(root: Path) -> Iterator[StageProcess]:
    with stage_process(root) as process:
        yield process


class Killed:
    """A job whose worker, or who submitted it, was killed at one call, and that was then finished.

    Args:
        root: of the machine.
        process: the stage's, which may serve many jobs.
        fuse: blows at that call.
        deeds: of the job's steps.
    """

    def __init__(
        self, root: Path, process: StageProcess, fuse: Fuse, deeds: dict[str, list[str]]
    ) -> None:
        self.machine = Machine(root, process)
        client = MemoryBus(self.machine.broker)
        store: Any = GatedStore(self.machine.store, fuse)
        bus: Any = GatedBus(client, fuse)
        job = f"job-{time.monotonic_ns()}"
        try:
            self.machine.submit(job=job, store=store, bus=bus, **deeds)
            worker = self.machine.worker(store, bus, GatedRunner(process, fuse))
            self.machine.finish(job, worker)
        except KilledError:
            self.machine.submit(job=job, **deeds)
        client.close()
        self.machine.clock.ahead_s += leases.LIFETIME_S + 1
        self.result = self.machine.finish(job)
        self.runs = [self.machine.script(job).runs(step) for step in STEPS]


def killed_everywhere(
    root: Path, process: StageProcess, moment: str, **deeds: list[str]
) -> Iterator[Killed]:
    """The job killed before or after its first call, its second, and so on to its last."""
    number = 0
    while True:
        number += 1
        fuse = Fuse(number, moment)
        killed = Killed(root, process, fuse, deeds)
        if not fuse.is_blown:
            break
        yield killed
    assert number > 50  # calls of a job


moments = pytest.mark.parametrize("moment", ["before", "after"])


@moments
def test_a_job_that_does_well(root: Path, process: StageProcess, moment: str) -> None:
    repeated = 0
    for killed in killed_everywhere(root, process, moment):
        assert killed.result.errors == {}
        assert killed.machine.bundles(killed.result) == {
            "small": {"text_encoder.mlpackage/weight.bin": b"text_encoder"}
        }
        assert killed.machine.bus.dead_letters() == ()
        repeated += sum(killed.runs) - len(STEPS)
    # work is done again where the kill came between a step's end and its commit, nowhere else
    assert repeated == len(STEPS)


@moments
def test_a_job_that_has_to_try_again(root: Path, process: StageProcess, moment: str) -> None:
    for killed in killed_everywhere(root, process, moment, normalize=["transient"]):
        assert killed.result.builds.keys() == {"small"}
        assert killed.machine.bus.dead_letters() == ()


@moments
def test_a_job_that_fails(root: Path, process: StageProcess, moment: str) -> None:
    deeds = {"convert_text_encoder": ["permanent"] * 3}
    for killed in killed_everywhere(root, process, moment, **deeds):
        assert killed.result.builds == {}
        (error,) = killed.result.errors.values()
        assert error["code"] == "corrupt-checkpoint"
        letters = killed.machine.bus.dead_letters()
        assert {letter.stage for letter in letters} == {"convert"}
