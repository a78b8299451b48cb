"""Where objects are wired: the only place, with the command line, that knows every part."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from secrets import token_hex

from filelock import FileLock, Timeout

from corepress.adapters.embedded.bus import MemoryBroker, MemoryBus
from corepress.adapters.embedded.inventory import FolderInventory
from corepress.adapters.embedded.pruning import clear_leftovers, prune
from corepress.adapters.embedded.store import FolderStore
from corepress.adapters.hub import HubPublisher
from corepress.domain.errors import StoreBusy
from corepress.domain.stage import Stage
from corepress.ports.clock import SystemClock
from corepress.ports.publisher import Publisher
from corepress.ports.telemetry import Telemetry
from corepress.runtime.stage_process import StageProcess, serve
from corepress.runtime.worker import RetryPolicy, Worker

_WATCHED = RetryPolicy(transient_attempts=3)
"""Somebody waits in front of this machine, and can start again what fails for longer."""
_STAGE_PROCESS = "from corepress.bootstrap import stage_process_main; stage_process_main()"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Store, bus and worker of one machine, the stages that it runs, and what uploads bundles.

    ``policy`` says how often anything is tried.
    """

    store: FolderStore
    bus: MemoryBus
    worker: Worker
    stages: Mapping[str, Stage]
    hub: Publisher
    policy: RetryPolicy


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="corepress.stages")}


def stage_names() -> list[str]:
    """The names of the installed stages."""
    return list(_entry_points())


def stage_loaders() -> dict[str, Callable[[], Stage]]:
    """Loads each installed stage, by name; a stage's libraries are imported with it."""
    return {name: entry.load for name, entry in _entry_points().items()}


@contextmanager
def locked_store(state: Path) -> Iterator[tuple[FolderStore, FolderInventory]]:
    """The store in a folder, under its lock.

    Raises:
        StoreBusy: another process works in this folder.
    """
    store = FolderStore(state)
    try:
        lock = FileLock(state / "lock").acquire(timeout=0)
    except Timeout:
        raise StoreBusy(
            f"another corepress works in {state}",
            hint="wait for it, or choose another folder with --state",
            path=str(state),
        ) from None
    with lock:
        yield store, FolderInventory(state)


@contextmanager
def embedded_pipeline(
    state: Path, cache_limit_bytes: int, telemetry: Telemetry
) -> Iterator[Pipeline]:
    """Everything that `corepress run` needs, in one folder and under its lock.

    Raises:
        StoreBusy: another process works in this folder.
    """
    with locked_store(state) as (store, _):
        clear_leftovers(state)
        clock = SystemClock()
        stages = load_stages()
        bus = MemoryBus(MemoryBroker(stages, clock))
        runner = StageProcess(
            [sys.executable, "-c", _STAGE_PROCESS, str(store.root)],
            scratch=store.root / "tmp" / "stage-process",
            log=store.root / "stage-process.log",
        )
        owner = f"{os.getpid()}-{token_hex(4)}"
        hub = HubPublisher(store, store.root / "tmp" / "hub")
        worker = Worker(store, bus, stages, runner, clock, telemetry, owner, _WATCHED)
        try:
            yield Pipeline(store, bus, worker, stages, hub, _WATCHED)
        finally:
            runner.stop()
            clear_leftovers(state)
            prune(state, cache_limit_bytes)


def load_stages() -> Mapping[str, Stage]:
    """All installed stages, by name."""
    return {name: entry.load() for name, entry in _entry_points().items()}


def stage_process_main() -> None:
    """The main function of a stage's process: ``STATE SCRATCH REQUESTS ANSWERS``."""
    state, scratch, requests, answers = sys.argv[1:]
    store = FolderStore(Path(state))
    serve(stage_loaders(), store, Path(scratch), int(requests), int(answers))
