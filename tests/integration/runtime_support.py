"""A machine whose workers run the synthetic stages in real processes on a real store."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import synthetic_stages
from synthetic_stages import STAGES, Script

from corepress.adapters.embedded.bus import MemoryBroker, MemoryBus
from corepress.adapters.embedded.store import FolderStore
from corepress.domain.bundle import MANIFEST
from corepress.domain.composition import CHECKPOINT
from corepress.domain.job import JobRequest
from corepress.domain.recipe import Recipe
from corepress.domain.stage import Task
from corepress.messages.work import Work
from corepress.ports.bus import Bus
from corepress.ports.store import Store
from corepress.ports.telemetry import NodeRef
from corepress.runtime import jobs
from corepress.runtime.jobs import JobResult
from corepress.runtime.stage_process import StageProcess
from corepress.runtime.worker import RetryPolicy, StageRunner, Worker

SMALL = Recipe("small", components=["text_encoder"])
"""The least that has every stage."""

QUICK = RetryPolicy(first_delay_s=0.001, lease_delay_s=0.001)
_PATIENCE_S = 60.0


class ShiftedClock:
    """The machine's clock, which can be set forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_s(self) -> float:
        return time.time() + self.ahead_s

    def monotonic_s(self) -> float:
        return time.monotonic() + self.ahead_s


class Recorder:
    """A telemetry that keeps what it is told: the hook, the node, and what else there is."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def of(self, hook: str) -> list[tuple[Any, ...]]:
        """What was told by one hook, without its name."""
        return [event[1:] for event in self.events if event[0] == hook]

    def started(self, ref: NodeRef) -> None:
        self.events.append(("started", ref.node, ref.attempt))

    def progress(self, ref: NodeRef, activity: str, done: float, total: float, unit: str) -> None:
        self.events.append(("progress", ref.node, activity, done, total, unit))

    def finished(self, ref: NodeRef, cached: bool, figures: Mapping[str, Any]) -> None:
        self.events.append(("finished", ref.node, cached, sorted(figures)))

    def retried(self, ref: NodeRef, error: Mapping[str, Any], delay_s: float) -> None:
        self.events.append(("retried", ref.node, error["code"], ref.attempt, delay_s))

    def failed(self, ref: NodeRef, error: Mapping[str, Any]) -> None:
        self.events.append(("failed", ref.node, error["code"]))


class RecordingBus(MemoryBus):
    """A bus that keeps what was sent."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.sent: list[bytes] = []

    def publish(self, stage: str, body: bytes, priority: int = 0) -> None:
        super().publish(stage, body, priority)
        self.sent.append(body)


@contextmanager
def stage_process(root: Path, name: str = "stage-process") -> Iterator[StageProcess]:
    """A process of the synthetic stages with the store in ``root/state``."""
    command = [sys.executable, synthetic_stages.__file__, str(root / "state")]
    process = StageProcess(command, scratch=root / f"{name}-scratch", log=root / f"{name}.log")
    try:
        yield process
    finally:
        process.stop()


class Machine:
    """A store, a broker, and workers that share a stage's process."""

    def __init__(self, root: Path, runner: StageRunner) -> None:
        self.root = root
        self.runner = runner
        self.clock = ShiftedClock()
        self.store = FolderStore(root / "state")
        self.broker = MemoryBroker(STAGES, self.clock)
        self.bus = RecordingBus(self.broker)
        self.told = Recorder()
        self._numbers = itertools.count(1)

    def submit(
        self,
        *recipes: Recipe,
        job: str | None = None,
        store: Store | None = None,
        bus: Bus | None = None,
        **deeds: list[str],
    ) -> str:
        """Submit a job whose steps do these deeds; ``convert-unet`` is written ``convert_unet``."""
        job = job or f"job-{time.monotonic_ns()}"
        document = {step.replace("_", "-", 1): deed for step, deed in deeds.items()}
        script = document | {"journal": str(self.root / f"{job}.journal")}
        source = {"uri": "file:///script", "fingerprint": {}, "script": script}
        request = JobRequest("script", recipes or (SMALL,), "script")
        jobs.submit(store or self.store, bus or self.bus, job, request, {CHECKPOINT: source})
        return job

    def message(self, job: str, step: str) -> bytes:
        """What was sent for a step: the beginning of a node's name is enough."""
        sent = [Work.decode(body) for body in self.bus.sent]
        return next(w for w in sent if w.job == job and w.node.startswith(step)).encode()

    def script(self, job: str) -> Script:
        """What the steps of a job did."""
        return Script({"journal": str(self.root / f"{job}.journal")})

    def worker(
        self,
        store: Store | None = None,
        bus: Bus | None = None,
        runner: StageRunner | None = None,
        policy: RetryPolicy = QUICK,
    ) -> Worker:
        """Another worker."""
        return Worker(
            store or self.store,
            bus or self.bus,
            STAGES,
            runner or self.runner,
            self.clock,
            self.told,
            owner=f"worker-{next(self._numbers)}",
            policy=policy,
        )

    def finish(self, job: str, worker: Worker | None = None) -> JobResult:
        """Work until a job has a result, and nothing is left to do; nobody waits for a delay."""
        worker = worker or self.worker()
        deadline_s = time.monotonic() + _PATIENCE_S
        while (result := jobs.result(self.store, job)) is None:
            if not worker.step(0.0):
                self.clock.ahead_s += 0.1
            assert time.monotonic() < deadline_s, jobs.steps(self.store, job)
        while worker.step(0.0):
            pass
        return result

    def bundles(self, result: JobResult) -> dict[str, dict[str, bytes]]:
        """The published models."""
        found = {}
        for build, action in result.builds.items():
            outputs = jobs.load_outputs(self.store, action)
            assert outputs is not None
            found[build] = {
                path: self.store.open(blob).read(0, blob.size_bytes)
                for path, blob in outputs.artifacts["bundle"].files.items()
                if path != MANIFEST
            }
        return found


def fetch_task(root: Path, *deeds: str) -> Task:
    """A task of the fetch stage that does these deeds one after another, run by run."""
    journal = root / f"{time.monotonic_ns()}.journal"
    script = {"journal": str(journal), "fetch": list(deeds)}
    return Task("fetch", {"source": {"script": script}})


def script_of(task: Task) -> Script:
    """What a `fetch_task` did."""
    return Script(task.parameters["source"]["script"])
