"""Where a fleet's workers are wired."""

from __future__ import annotations

import itertools
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from filelock import FileLock, Timeout

from corepress.adapters.hub import HubPublisher
from corepress.adapters.s3.cache import prune_cache
from corepress.adapters.s3.objects import S3Objects
from corepress.adapters.s3.published import S3Publisher
from corepress.adapters.s3.store import S3Store
from corepress.bootstrap import stage_loaders
from corepress.config import Settings, read_settings
from corepress.connections import open_bus, open_store
from corepress.domain.composition import CHECKPOINT
from corepress.domain.job import JobRequest
from corepress.ports.bus import INTAKE, Bus
from corepress.ports.clock import SystemClock
from corepress.ports.telemetry import Telemetry
from corepress.runtime import job_index
from corepress.runtime.catalogue_page import PageKeeper
from corepress.runtime.job_events import EventTelemetry
from corepress.runtime.presence import present
from corepress.runtime.publishers import InTurn
from corepress.runtime.service import Handler, Trouble, keep_at
from corepress.runtime.stage_process import StageProcess, serve
from corepress.runtime.worker import RetryPolicy, Worker
from corepress_fetch.source import pinned, resolve
from corepress_intake.drop_folder import DropFolder
from corepress_intake.worker import IntakeWorker, Report

_ATTEMPTS = 12
"""Nobody waits in front of a fleet: what is outside of it may be away for a quarter of an hour."""
_LEASE_DELAY_S = 15.0
_GATHER_EVERY_S = 20.0
_STAGE_PROCESS = "from corepress.fleet import stage_process_main; stage_process_main()"


def resolve_sources(request: JobRequest) -> tuple[JobRequest, dict[str, Mapping[str, Any]]]:
    """A request with its sources pinned, and what they are at this moment by role.

    Raises:
        PermanentError, TransientError: see `corepress_fetch.source.resolve`.
    """
    request = pinned(request)
    tokenizer = request.options.tokenizer
    return request, {
        role: resolve(uri, tokenizer if role == CHECKPOINT else None)
        for role, uri in request.checkpoints.items()
    }


class FleetWorker:
    """The workers of some stages on this host: two for intake, one for all the others.

    Args:
        settings: name bus and store.
        stages: their names.
        telemetry: is told of steps.
        report: is told of requests for jobs.
        trouble: is told what failed outside, and for how long the worker waits now.

    Raises:
        InvalidRequest: see `open_bus` and `open_store`.
    """

    def __init__(
        self,
        settings: Settings,
        stages: Collection[str],
        telemetry: Telemetry,
        report: Report,
        trouble: Trouble,
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._report = report
        self._trouble = trouble
        self._stop = threading.Event()
        self._worker: Worker | None = None
        self._failure: BaseException | None = None
        self._owner = f"{platform.node()}-{os.getpid()}-{token_hex(4)}"
        self._clock = SystemClock()
        self._policy = RetryPolicy(
            transient_attempts=_ATTEMPTS,
            lease_s=settings.lease_s,
            lease_delay_s=min(_LEASE_DELAY_S, settings.lease_s / 4),
        )
        self._stages = tuple(stage for stage in stages if stage != INTAKE)
        work = [self._take_in, self._look_for_drops] if INTAKE in stages else []
        work += [self._run_stages] if self._stages else []
        work += [partial(self._be_present, tuple(stages))]
        self._threads = [
            threading.Thread(target=self._work, args=(each,), daemon=True) for each in work
        ]
        self._connect()
        open_store(settings)

    def start(self) -> None:
        """Start working, in threads of its own."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take no more deliveries; what is at work goes on."""
        self._stop.set()

    def hand_back(self) -> None:
        """End the running step, whose delivery goes to others."""
        if self._worker is not None:
            self._worker.stop()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Whether all work has ended; waits for it.

        Raises:
            PermanentError: it never worked: an address or a password is wrong, say.
        """
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if self._failure is not None:
            raise self._failure
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (it is raised where somebody waits)
            self._failure = error
            self._stop.set()

    def _connect(self) -> Bus:
        return open_bus(self._settings, self._owner)

    def _be_present(self, stages: Collection[str]) -> None:
        with present(open_store(self._settings), self._clock, self._owner, stages):
            self._stop.wait()

    def _take_in(self) -> None:
        store = open_store(self._settings)

        def handler(bus: Bus) -> Handler:
            intake = IntakeWorker(
                store,
                bus,
                self._clock,
                resolve_sources,
                self._settings.local_sources,
                self._report,
                self._policy,
            )
            return _Gathering(intake, store)

        keep_at(self._connect, handler, self._stop, self._trouble)

    def _look_for_drops(self) -> None:
        store = open_store(self._settings)
        objects = S3Objects(store.location)

        def handler(bus: Bus) -> Handler:
            return DropFolder(
                objects, store, bus, self._clock, self._settings.local_sources, self._report
            )

        keep_at(self._connect, handler, self._stop, self._trouble)

    def _run_stages(self) -> None:
        declared = stage_loaders()
        stages = {name: declared[name]() for name in self._stages}
        with worker_folder(self._settings.state) as folder:
            cache = folder / "downloads"
            store = open_store(self._settings, cache)
            hub = HubPublisher(store, folder / "scratch" / "hub")
            bucket = S3Publisher(store, self._clock)
            publisher = InTurn([bucket, hub])
            runner = StageProcess(
                [sys.executable, "-c", _STAGE_PROCESS, str(cache)],
                scratch=folder / "scratch",
                log=folder / "stage-process.log",
            )
            told = EventTelemetry(store, self._connect, self._clock, self._owner, self._telemetry)

            def handler(bus: Bus) -> Handler:
                self._worker = Worker(
                    store,
                    bus,
                    stages,
                    runner,
                    self._clock,
                    told,
                    self._owner,
                    self._policy,
                    publisher,
                )
                tidy = _Tidy(self._worker, cache, self._settings.cache_limit)
                return _Cataloguing(tidy, bucket.page) if "publish" in stages else tidy

            try:
                keep_at(self._connect, handler, self._stop, self._trouble)
            finally:
                runner.stop()
                told.close()


class _Gathering:
    """Intake that also keeps the index of jobs short."""

    def __init__(self, intake: IntakeWorker, store: S3Store) -> None:
        self._intake = intake
        self._store = store
        self._gathered_s = 0.0

    def step(self, timeout_s: float) -> bool:
        if time.monotonic() - self._gathered_s > _GATHER_EVERY_S:
            job_index.gather(self._store)
            self._gathered_s = time.monotonic()
        return self._intake.step(timeout_s)


class _Tidy:
    """A worker that keeps its downloads within their limit; between steps nobody uses them."""

    def __init__(self, worker: Worker, cache: Path, limit_bytes: int) -> None:
        self._worker = worker
        self._cache = cache
        self._limit_bytes = limit_bytes

    def step(self, timeout_s: float) -> bool:
        did = self._worker.step(timeout_s)
        if did:
            prune_cache(self._cache, self._limit_bytes)
        return did


class _Cataloguing:
    """A worker that publishes, and keeps the catalogue's page up to date when it has time."""

    def __init__(self, worker: Handler, page: PageKeeper) -> None:
        self._worker = worker
        self._page = page

    def step(self, timeout_s: float) -> bool:
        self._page.keep_up()
        return self._worker.step(timeout_s)


@contextmanager
def worker_folder(state: Path) -> Iterator[Path]:
    """A folder of its own for each worker on a host, the same again after a restart."""
    for number in itertools.count(1):
        folder = state / "workers" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(folder / "lock").acquire(timeout=0)
        except Timeout:
            continue
        with lock:
            shutil.rmtree(folder / "scratch", ignore_errors=True)
            yield folder
        return


def stage_process_main() -> None:
    """The main function of a stage's process: ``DOWNLOADS SCRATCH REQUESTS ANSWERS``."""
    cache, scratch, requests, answers = sys.argv[1:]
    store = open_store(read_settings(), Path(cache))
    serve(stage_loaders(), store, Path(scratch), int(requests), int(answers))
