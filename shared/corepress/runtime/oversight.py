"""Watching jobs, stopping them, and having them try again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from corepress.domain.errors import Cancelled, CorepressError
from corepress.domain.job import JobRequest
from corepress.domain.plan import ready
from corepress.ports.bus import INTAKE, Bus
from corepress.ports.store import DocumentNotFound, Store
from corepress.runtime.job_index import State, state_of
from corepress.runtime.jobs import (
    JobResult,
    document_key,
    fail,
    finish,
    is_open,
    letter_key,
    nodes_of,
    publish_ready,
    reopen,
    request_of,
    result,
    steps,
    write_request,
)

_LOOK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How far a job has come: of ``nodes``, those known by now, ``settled`` are done or failed."""

    job: str
    name: str
    source: str
    state: State
    settled: int
    nodes: int
    builds: Mapping[str, str]
    errors: Mapping[str, Mapping[str, Any]]


def status(store: Store, job: str) -> JobStatus:
    """How far a job has come.

    Raises:
        InvalidRequest: there is no such job.
    """
    outcome, settled = result(store, job), steps(store, job)
    request = request_of(store, job)
    refused = outcome is not None and not is_open(store, job)
    nodes = [] if refused else nodes_of(store, job)
    errors = outcome.errors if outcome else {}
    state: State = "running" if outcome is None else state_of(errors)
    return JobStatus(
        job,
        request.name,
        request.source,
        state,
        len(settled),
        len(nodes),
        outcome.builds if outcome else {},
        errors,
    )


def waiting_stages(store: Store, job: str) -> set[str]:
    """The stages of the steps that could run now, or do.

    Raises:
        InvalidRequest: there is no such job.
    """
    settled = steps(store, job)
    done = [node for node, step in settled.items() if "action" in step]
    failed = [node for node, step in settled.items() if "error" in step]
    return {node.stage for node in ready(nodes_of(store, job), done, failed).runnable}


def cancel(store: Store, bus: Bus, job: str) -> bool:
    """End a job; whoever works on it stops, now or when its message comes.

    Returns:
        whether it was at work.

    Raises:
        InvalidRequest: there is no such job.
    """
    nodes = nodes_of(store, job)
    if result(store, job) is not None:
        return False
    store.create(document_key(job, "cancelled"), b"{}")
    for node in nodes:
        if result(store, job) is None and node.id not in steps(store, job):
            fail(store, bus, job, node.id, Cancelled(f"the job {job} was cancelled"))
    return True


def is_cancelled(store: Store, job: str) -> bool:
    """Whether a job was cancelled."""
    try:
        store.get(document_key(job, "cancelled"))
    except DocumentNotFound:
        return False
    return True


@contextmanager
def stopped_when_cancelled(store: Store, job: str, stop: Callable[[], None]) -> Iterator[None]:
    """While the block runs, call ``stop`` from another thread once the job is cancelled."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_EVERY_S):
            try:
                if is_cancelled(store, job):
                    stop()
                    return
            except CorepressError:
                continue  # the store may answer next time

    watcher = threading.Thread(target=look, name="cancellation", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def try_again(store: Store, bus: Bus, job: str) -> None:
    """Forget a job's failures, or that it was cancelled, and go on with what they stopped.

    Raises:
        InvalidRequest: there is no such job.
    """
    nodes_of(store, job)
    failed = [node for node, step in steps(store, job).items() if "error" in step]
    reopen(store, job)
    for node in failed:
        store.delete(letter_key(job, node))
        store.delete(document_key(job, f"steps/{node}"))
    publish_ready(store, bus, job, None, request_of(store, job).priority)


def refuse(store: Store, bus: Bus, job: str, request: JobRequest, error: CorepressError) -> None:
    """Record that a job was refused before it began."""
    write_request(store, job, request)
    finish(store, bus, job, JobResult(builds={}, errors={INTAKE: error.document()}))


def forget_refusal(store: Store, job: str) -> None:
    """Let a job that was refused before it began be opened after all."""
    if result(store, job) is not None and not is_open(store, job):
        reopen(store, job)
        store.delete(document_key(job, "request"))
