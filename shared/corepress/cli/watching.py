"""Jobs of the fleet, watched: events as they come, and what the store says in the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import click

from corepress.cli.output import print_json, words
from corepress.cli.progress import ProgressDisplay
from corepress.config import Settings
from corepress.domain.errors import InvalidRequest, TransientError, from_document
from corepress.domain.publication import build_prefix, version_of
from corepress.messages.events import Event
from corepress.ports.clock import SystemClock
from corepress.ports.store import Store
from corepress.ports.telemetry import NodeRef
from corepress.runtime import jobs
from corepress.runtime.actions import load_outputs
from corepress.runtime.oversight import status, waiting_stages
from corepress.runtime.presence import stages_with_workers

_LISTEN_S = 1.0
_LOOK_EVERY_S = 2.0


def watch_jobs(settings: Settings, names: Sequence[str]) -> list[dict[str, Any]]:
    """Show what happens to jobs until all have ended.

    Returns:
        a `job_document` of each.

    Raises:
        InvalidRequest: bus or store are not named.
        AccessDenied: one of them refuses.
    """
    from corepress.connections import open_store  # noqa: PLC0415  (see cli/submit.py)

    store = open_store(settings)
    left, looked_s = set(names), 0.0
    lacking: set[str] = set()
    with ProgressDisplay() as display, _listening(settings, names) as listen:
        while left:
            if (body := listen()) is not None:
                show(display, body)
            if time.monotonic() - looked_s > _LOOK_EVERY_S:
                left = {name for name in left if jobs.result(store, name) is None}
                lacking = _tell_lack(display, store, left, lacking)
                looked_s = time.monotonic()
    return [job_document(settings, store, name) for name in names]


def _tell_lack(
    display: ProgressDisplay, store: Store, names: Collection[str], told: set[str]
) -> set[str]:
    """Say for which stages of these jobs there is no worker, unless that was told."""
    wanted = set[str]().union(
        *(waiting_stages(store, name) for name in names if jobs.is_open(store, name))
    )
    lacking = wanted - stages_with_workers(store, SystemClock()) if wanted else set()
    for stage in sorted(lacking - told):
        display.say(f"waiting for a worker of {stage}: none is connected")
    return lacking


def job_document(settings: Settings, store: Store, job: str) -> dict[str, Any]:
    """What has become of a job, as JSON; bundles by where they are published.

    Raises:
        InvalidRequest: there is no such job.
    """
    now = status(store, job)
    waiting: set[str] = set()
    if now.state == "running":
        waiting = waiting_stages(store, job) - stages_with_workers(store, SystemClock())
    return {
        "job": job,
        "name": now.name,
        "source": now.source,
        "state": now.state,
        "steps": {"settled": now.settled, "known": now.nodes},
        "no_worker_for": sorted(waiting),
        "builds": {
            build: _published(settings, store, now.name, build, action)
            for build, action in now.builds.items()
        },
        "errors": {node: dict(error) for node, error in now.errors.items()},
    }


def conclude(finished: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Say what became of jobs, and end with the exit status of their first error."""
    errors = [error for job in finished for error in job["errors"].values()]
    if as_json:
        print_json({"jobs": list(finished)} | ({"error": errors[0]} if errors else {}))
    else:
        for job in finished:
            click.echo(f"{job['job']}  {job['state']}")
            for build in job["builds"].values():
                click.echo(f"  {build}")
    for error in errors:
        click.echo(words(error), err=True)
    if errors:
        sys.exit(from_document(errors[0]).exit_code)


def show(display: ProgressDisplay, body: bytes) -> None:
    """Pass an event of a step on to a display."""
    try:
        event = Event.decode(body)
    except InvalidRequest:  # of a newer version
        return
    told = event.data
    if not event.kind.startswith("step."):
        return
    ref = NodeRef(event.job, told["node"], told["stage"], told["attempt"])
    match event.kind:
        case "step.started":
            display.started(ref)
        case "step.progress":
            display.progress(ref, told["activity"], told["done"], told["total"], told["unit"])
        case "step.finished":
            figures = {key: told[key] for key in ("seconds", "peak_memory_bytes") if key in told}
            display.finished(ref, told["cached"], figures)
        case "step.retried":
            display.retried(ref, told["error"], told["delay_s"])
        case "step.failed":
            display.failed(ref, told["error"])


@contextmanager
def _listening(settings: Settings, names: Sequence[str]) -> Iterator[Callable[[], bytes | None]]:
    """Hear the events of jobs; while the bus is away, none."""
    from corepress.connections import events  # noqa: PLC0415  (see cli/submit.py)

    topics = [f"*.*.{name}" for name in names]
    stack = ExitStack()
    listen: Callable[[float], bytes | None] | None = None

    def heard() -> bytes | None:
        nonlocal listen
        try:
            if listen is None:
                listen = stack.enter_context(events(settings, topics))
            return listen(_LISTEN_S)
        except TransientError:
            listen = None
            with suppress(TransientError):
                stack.close()
            time.sleep(_LISTEN_S)
            return None

    with stack:
        yield heard


def _published(settings: Settings, store: Store, name: str, build: str, action: str) -> str:
    outputs = load_outputs(store, action)
    version = version_of(outputs.artifacts["bundle"]) if outputs else ""
    address = str(settings.store).rstrip("/")
    return f"{address}/{build_prefix(name, build)}{version}"
