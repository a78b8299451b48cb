"""A fleet of one worker on the S3 server, whose stages do what scripts tell them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corepress.adapters.embedded.bus import MemoryBroker, MemoryBus
from corepress.adapters.s3.client import S3Location
from corepress.adapters.s3.inventory import S3Inventory
from corepress.adapters.s3.published import S3Publisher
from corepress.adapters.s3.store import S3Store
from corepress.domain.composition import CHECKPOINT
from corepress.domain.job import JobRequest
from corepress.domain.recipe import Recipe
from corepress.domain.stage import Stage, Task
from corepress.ports.clock import SystemClock
from corepress.ports.telemetry import NodeRef
from corepress.runtime import jobs
from corepress.runtime.collection import Swept, sweep
from corepress.runtime.worker import ProgressCallback, RetryPolicy, Run, Worker
from corepress.runtime.workspace import StoreWorkspace

sys.path.append(str(Path(__file__).parents[1] / "integration"))

import synthetic_stages
from synthetic_stages import STAGES

DAY_S = 86_400.0
RECIPE = Recipe("small", components=["text_encoder", "unet"])
CLOCK = SystemClock()


class Silence:
    """A telemetry that tells nothing."""

    def started(self, ref: NodeRef) -> None: ...
    def progress(self, ref: NodeRef, *_: Any) -> None: ...
    def finished(self, ref: NodeRef, **_: Any) -> None: ...
    def retried(self, ref: NodeRef, *_: Any) -> None: ...
    def failed(self, ref: NodeRef, *_: Any) -> None: ...


class Here:
    """Runs the synthetic stages in this process."""

    def __init__(self, store: S3Store, stages: Mapping[str, Stage]) -> None:
        self._store = store
        self._stages = stages

    def run(self, task: Task, progress: ProgressCallback) -> Run:
        with tempfile.TemporaryDirectory() as scratch:
            workspace = StoreWorkspace(self._store, Path(scratch), progress)
            return Run(self._stages[task.stage].run(task, workspace), 0.0, 0)

    def interrupt(self) -> None: ...


class Fleet:
    """A bucket, a bus in memory, and a worker of the synthetic stages that publishes."""

    def __init__(self, location: S3Location, root: Path) -> None:
        self.location = location
        self.store = S3Store(location, root / "cache")
        self.inventory = S3Inventory(location)
        self.bus = MemoryBus(MemoryBroker(STAGES, CLOCK))
        self.root = root
        self.worker = self.worker_on(self.store)

    def worker_on(self, store: S3Store, stages: Mapping[str, Stage] = STAGES) -> Worker:
        return Worker(
            store,
            self.bus,
            stages,
            Here(store, stages),
            CLOCK,
            Silence(),
            owner="worker",
            policy=RetryPolicy(bug_attempts=1),
            publisher=S3Publisher(store, CLOCK),
        )

    def upgrade(self, monkeypatch: pytest.MonkeyPatch, **toolchain: str) -> None:
        """Give the worker other tools to convert with."""
        monkeypatch.setattr(synthetic_stages, "TOOLCHAIN", toolchain)
        convert = replace(STAGES["convert"], toolchain=tuple(toolchain.values()))
        self.worker = self.worker_on(self.store, {**STAGES, "convert": convert})

    def submit(self, name: str, recipes: tuple[Recipe, ...] = (RECIPE,), **deeds: list[str]) -> str:
        return self.open(name, JobRequest("x", recipes, name), self.script(name, **deeds))

    def script(self, name: str, **deeds: list[str]) -> dict[str, Any]:
        """A source that says what steps do, and where they write that they did."""
        script = deeds | {"journal": str(self.root / f"{name}.journal")}
        return {"uri": "file:///script", "fingerprint": {}, "script": script}

    def open(self, job: str, request: JobRequest, source: Mapping[str, Any]) -> str:
        jobs.submit(self.store, self.bus, job, request, {CHECKPOINT: source})
        return job

    def finish(self, job: str, between: Callable[[], Any] = lambda: None) -> jobs.JobResult:
        while (result := jobs.result(self.store, job)) is None:
            assert self.worker.step(0.0)
            between()
        return result

    def sweep(
        self,
        ahead_s: float = 2 * DAY_S,
        grace_s: float = DAY_S,
        wait: Callable[[float], None] = lambda _: None,
        dry_run: bool = False,
        store: S3Store | None = None,
    ) -> Swept:
        now_s = self.inventory.now_s() + ahead_s
        return sweep(
            store or self.store, self.inventory, now_s, grace_s, wait, lambda *_: None, dry_run
        )

    def objects(self) -> set[str]:
        return set(self.store.keys(""))

    def actions(self, job: str) -> list[str]:
        """The actions of a job's steps."""
        return [step["action"] for step in jobs.steps(self.store, job).values() if "action" in step]

    def runs(self, name: str) -> list[str]:
        """The steps that ran, as often as they did."""
        return [
            line.split()[0] for line in (self.root / f"{name}.journal").read_text().splitlines()
        ]
