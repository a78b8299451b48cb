"""Telling what happens to jobs: on the bus to whoever listens, and in the store for later.

An event in the store is an object of its own. When a job seems to have ended they are gathered into
a page, and only then removed; several may gather at once.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from corepress.domain.artifact import canonical_json, sha256_digest
from corepress.domain.errors import CorepressError
from corepress.messages.events import Event, Kind
from corepress.ports.bus import Bus
from corepress.ports.clock import Clock
from corepress.ports.store import DocumentNotFound, Store
from corepress.ports.telemetry import NodeRef, Telemetry

_PROGRESS_EVERY_S = 1.0
_MOST_WAITING = 1000
_FLUSH_S = 5.0
_WRITTEN_AFTER_S = 0.3


def tell(store: Store, bus: Bus, event: Event) -> None:
    """Write an event of a job down and announce it."""
    record(store, event)
    bus.announce(event.topic, event.encode())


def record(store: Store, event: Event) -> None:
    """Write an event of a job down; harmless when repeated."""
    store.put(_key(event), event.encode())


def _record_all(store: Store, events: Sequence[Event]) -> None:
    """Write events of one job down, in one object."""
    if len(events) == 1:
        record(store, events[0])
    else:
        _put_page(store, events)


def _key(event: Event) -> str:
    return f"{_folder(event.job)}{int(event.at_s * 1000):015d}-{event.id}.json"


def _put_page(store: Store, events: Sequence[Event]) -> str:
    """Write a page of events of one job; the key of it."""
    page = canonical_json([json.loads(event.encode()) for event in events])
    digest = sha256_digest(page).removeprefix("sha256:")
    key = f"{_folder(events[0].job)}page-{digest}.json"
    store.put(key, page)
    return key


def history(store: Store, job: str) -> list[Event]:
    """What happened to a job, oldest first, but for progress.

    While others gather, a listing may miss both the events and their page: one is to be like the
    one before.
    """
    found: dict[str, Event] = {}
    before = None
    while (keys := list(store.keys(_folder(job)))) != before:
        before = keys
        for key in keys:
            with suppress(DocumentNotFound):  # then the next listing has their page
                found |= {event.id: event for event in _read(store, key)}
    return sorted(found.values(), key=lambda event: (event.at_s, event.id))


def gather(store: Store, job: str) -> None:
    """Gather a job's events into a page."""
    keys = list(store.keys(_folder(job)))
    events: dict[str, Event] = {}
    read = []
    for key in keys:
        with suppress(DocumentNotFound):  # then another is gathering, too
            events |= {event.id: event for event in _read(store, key)}
            read.append(key)
    if len(read) > 1:
        whole = _put_page(store, [events[each] for each in sorted(events)])
        for key in read:
            if key != whole:
                store.delete(key)


def _read(store: Store, key: str) -> list[Event]:
    document = json.loads(store.get(key))
    documents = document if isinstance(document, list) else [document]
    return [Event.decode(json.dumps(each).encode()) for each in documents]


def _folder(job: str) -> str:
    return f"jobs/{job}/events/"


class EventTelemetry:
    """A `corepress.ports.telemetry.Telemetry` that tells events, and passes on what it is told.

    A thread of its own does the telling, so that no step waits for it: what cannot be told while
    store and bus are away is dropped. Events are announced at once, and written down together with
    those of the next moment.

    Args:
        store: where events are kept.
        connect: opens the thread's client of the bus.
        clock: tells when something happened.
        worker: who it happened to, in the events.
        then: is told everything, too.
    """

    def __init__(
        self,
        store: Store,
        connect: Callable[[], Bus],
        clock: Clock,
        worker: str,
        then: Telemetry,
    ) -> None:
        self._store = store
        self._connect = connect
        self._clock = clock
        self._worker = worker
        self._then = then
        self._activity = ("", "", 0.0)
        self._told_s = 0.0
        self._waiting: queue.Queue[Event | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._tell_all, name="events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell what waits, within some seconds."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=_FLUSH_S)
            self._thread.join(_FLUSH_S)

    def started(self, ref: NodeRef) -> None:
        """The stage begins to run."""
        self._put("step.started", ref, {})
        self._then.started(ref)

    def progress(self, ref: NodeRef, activity: str, done: float, total: float, unit: str) -> None:
        """An activity of the running stage came this far."""
        self._then.progress(ref, activity, done, total, unit)
        now_s = time.monotonic()
        if self._activity[:2] != (ref.node, activity):
            self._activity = (ref.node, activity, now_s)
        elif now_s - self._told_s < _PROGRESS_EVERY_S and done < total:
            return
        self._told_s = now_s
        elapsed_s = now_s - self._activity[2]
        eta_s = round(elapsed_s * (total - done) / done, 1) if done and elapsed_s else None
        told = {"activity": activity, "done": done, "total": total, "unit": unit, "eta_s": eta_s}
        self._put("step.progress", ref, told)

    def finished(self, ref: NodeRef, cached: bool, figures: Mapping[str, Any]) -> None:
        """The action is committed."""
        self._put("step.finished", ref, {"cached": cached, **figures})
        self._then.finished(ref, cached, figures)

    def retried(self, ref: NodeRef, error: Mapping[str, Any], delay_s: float) -> None:
        """The delivery failed for now."""
        self._put("step.retried", ref, {"error": dict(error), "delay_s": delay_s})
        self._then.retried(ref, error, delay_s)

    def failed(self, ref: NodeRef, error: Mapping[str, Any]) -> None:
        """The delivery failed for good."""
        self._put("step.failed", ref, {"error": dict(error)})
        self._then.failed(ref, error)

    def _put(self, kind: Kind, ref: NodeRef, told: Mapping[str, Any]) -> None:
        step = {"node": ref.node, "stage": ref.stage, "attempt": ref.attempt}
        data = {**step, "worker": self._worker, **told}
        with suppress(queue.Full):
            self._waiting.put_nowait(Event(kind, ref.job, self._clock.now_s(), data))

    def _tell_all(self) -> None:
        bus = self._connect()
        unwritten: dict[str, list[Event]] = {}
        due_s = 0.0
        while True:
            wait_s = max(0.0, due_s - time.monotonic()) if unwritten else None
            try:
                event = self._waiting.get(timeout=wait_s)
            except queue.Empty:
                self._write(unwritten)
                continue
            if event is None:
                break
            with suppress(CorepressError):
                bus.announce(event.topic, event.encode())
            if event.kind == "step.progress":
                continue
            if not unwritten:
                due_s = time.monotonic() + _WRITTEN_AFTER_S
            unwritten.setdefault(event.job, []).append(event)
            if event.kind == "step.failed" or _is_last(event):
                self._write(unwritten)
                with suppress(CorepressError):
                    gather(self._store, event.job)
        self._write(unwritten)
        bus.close()

    def _write(self, unwritten: dict[str, list[Event]]) -> None:
        for events in unwritten.values():
            with suppress(CorepressError):
                _record_all(self._store, events)
        unwritten.clear()


def _is_last(event: Event) -> bool:
    """Whether a job has most likely ended with this."""
    return event.kind == "step.finished" and event.data["stage"] == "publish"
