"""Jobs of the fleet, watched: events as they come, and what the store says in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from corepress.cli.job_report import job_document, lack_words
from corepress.cli.progress import ProgressDisplay
from corepress.config import Settings
from corepress.domain.errors import InvalidRequest, TransientError
from corepress.messages.events import Event
from corepress.ports.clock import SystemClock
from corepress.ports.store import Store
from corepress.ports.telemetry import NodeRef
from corepress.runtime import jobs
from corepress.runtime.oversight import waiting_stages
from corepress.runtime.presence import stages_with_workers

_LISTEN_S = 1.0
_LOOK_EVERY_S = 2.0
_LAST_EVENTS_S = 0.2


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
            if (body := listen(_LISTEN_S)) is not None:
                show(display, body)
            if time.monotonic() - looked_s > _LOOK_EVERY_S:
                left = {name for name in left if jobs.result(store, name) is None}
                lacking = _tell_lack(display, store, left, lacking)
                looked_s = time.monotonic()
        while (body := listen(_LAST_EVENTS_S)) is not None:
            show(display, body)
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
        display.say(lack_words(stage))
    return lacking


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
def _listening(
    settings: Settings, names: Sequence[str]
) -> Iterator[Callable[[float], bytes | None]]:
    """Hear the events of jobs; while the bus is away, none."""
    from corepress.connections import events  # noqa: PLC0415  (see cli/submit.py)

    topics = [f"*.*.{name}" for name in names]
    stack = ExitStack()
    listen: Callable[[float], bytes | None] | None = None

    def heard(timeout_s: float) -> bytes | None:
        nonlocal listen
        try:
            if listen is None:
                listen = stack.enter_context(events(settings, topics))
            return listen(timeout_s)
        except TransientError:
            listen = None
            with suppress(TransientError):
                stack.close()
            time.sleep(timeout_s)
            return None

    with stack:
        yield heard
