"""A worker that stands still between any two steps while others go on: the outcome is the same.

What it has in its hands was delivered twice and its lease runs out, so nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from interposed import GatedBus, GatedRunner, GatedStore
from runtime_support import Machine, stage_process

from corepress.adapters.embedded.bus import MemoryBus
from corepress.runtime import leases
from corepress.runtime.jobs import JobResult
from corepress.runtime.stage_process import StageProcess

T = TypeVar("T")
STEPS = ("fetch", "normalize", "convert-text_encoder", "publish")


class Halt:
    """A gate that has something else happen before one call."""

    def __init__(self, number: int, meanwhile: Callable[[], None]) -> None:
        self.calls = 0
        self._number = number
        self._meanwhile = meanwhile

    def through(self, call: Callable[[], T]) -> T:
        self.calls += 1
        if self.calls == self._number:
            self._meanwhile()
        return call()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def process(root: Path) -> Iterator[StageProcess]:
    with stage_process(root) as process:
        yield process


def overtaken_everywhere(
    machine: Callable[[], Machine], step: str, lead: int, **deeds: list[str]
) -> Iterator[tuple[Machine, JobResult]]:
    """A job whose step is overtaken before the first call of its worker, the second, and so on.

    Args:
        machine: a new one at every call.
        step: what was delivered twice.
        lead: how many deliveries the others handle meanwhile.
        deeds: of the job's steps.
    """
    number = 1  # nobody is overtaken before it receives anything
    while True:
        number += 1
        this = machine()
        job = this.submit(**deeds)
        others = this.worker()
        for _ in range(STEPS.index(step)):
            assert others.step(0.0)
        this.bus.publish(step.partition("-")[0], this.message(job, step))

        def meanwhile(this: Machine = this, others: Any = others) -> None:
            this.clock.ahead_s += leases.LIFETIME_S + 1
            for _ in range(lead):
                others.step(0.0)
                this.clock.ahead_s += 1.0

        halt = Halt(number, meanwhile)
        store: Any = GatedStore(this.store, halt)
        bus: Any = GatedBus(MemoryBus(this.broker), halt)
        slow = this.worker(store, bus, GatedRunner(this.runner, halt))
        assert slow.step(0.0)
        if halt.calls < number:
            break
        yield this, this.finish(job)
    assert number > 10  # calls for a delivery


@pytest.mark.parametrize("lead", [1, 2, 10])
@pytest.mark.parametrize("step", STEPS)
def test_a_job_that_does_well(root: Path, process: StageProcess, step: str, lead: int) -> None:
    for machine, result in overtaken_everywhere(lambda: Machine(root, process), step, lead):
        assert result.errors == {}
        assert machine.bundles(result) == {
            "small": {"text_encoder.mlpackage/weight.bin": b"text_encoder"}
        }
        assert machine.bus.dead_letters() == ()


@pytest.mark.parametrize("lead", [1, 2, 10])
@pytest.mark.parametrize("step", STEPS[:3])
def test_a_job_that_fails(root: Path, process: StageProcess, step: str, lead: int) -> None:
    deeds = {step.replace("-", "_"): ["permanent"] * 3}
    for _, result in overtaken_everywhere(lambda: Machine(root, process), step, lead, **deeds):
        assert result.builds == {}
        (error,) = result.errors.values()
        assert error["code"] == "corrupt-checkpoint"
