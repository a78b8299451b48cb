"""The drop folder: checkpoints that people put into the store's bucket become jobs.

Every step can be repeated, by anybody and however late: a decision is written down once, and the
object that it is about is looked at again before it is removed. So two workers at once, or one that
was killed between any two steps, make one job of a drop.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from corepress.adapters.s3.objects import S3Object, S3Objects
from corepress.domain.artifact import canonical_json, sha256_digest
from corepress.messages.events import JOB_REJECTED, Event
from corepress.ports.bus import INTAKE, Bus
from corepress.ports.clock import Clock
from corepress.ports.store import DocumentNotFound, Store
from corepress_intake.dropped import DROP, Decision, Drop, decide, drops_among

_PENDING = "drops/"
_POLL_EVERY_S = 5.0
_PATIENCE_S = 60.0

Report = Callable[[str, str], None]
"""Takes a name, and what became of it."""


class DropFolder:
    """Looks for what was dropped, and moves it on; a `corepress.runtime.service.Handler`.

    Args:
        objects: of the store's bucket.
        store: in that bucket.
        bus: a client of its own.
        clock: tells the time.
        local_sources: see `corepress_intake.opening.refuse_hidden_sources`.
        report: is told what was done.
        patience_s: how long another worker may take over what it decided, before this one helps.
    """

    def __init__(
        self,
        objects: S3Objects,
        store: Store,
        bus: Bus,
        clock: Clock,
        local_sources: Path | None,
        report: Report,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._objects = objects
        self._store = store
        self._bus = bus
        self._clock = clock
        self._local_sources = local_sources
        self._report = report
        self._patience_s = patience_s
        self._next_poll_s = clock.monotonic_s()
        self._pending_since_s: dict[str, float] = {}

    def step(self, timeout_s: float) -> bool:
        """Look into the folder, where it is time to; False when that is not within the timeout.

        Raises:
            TransientError: store or bus fail; what was begun is finished by a later step.
        """
        wait_s = self._next_poll_s - self._clock.monotonic_s()
        if wait_s > timeout_s:
            time.sleep(timeout_s)
            return False
        time.sleep(max(0.0, wait_s))
        self.poll()
        self._next_poll_s = self._clock.monotonic_s() + _POLL_EVERY_S
        return True

    def poll(self) -> None:
        """Handle all that is there.

        Raises:
            TransientError: see `step`.
        """
        self._help()
        found = {each.key: each for each in self._objects.below(DROP)}
        together: dict[str, list[Drop]] = {}
        for drop in drops_among(found):
            together.setdefault((drop.options or drop.main).key, []).append(drop)
        groups = list(together.values())
        random.shuffle(groups)  # what cannot be handled is not always the first
        for group in groups:
            self._take(group)

    def _take(self, group: Sequence[Drop]) -> None:
        """Handle drops that share their options, which are read for all before they move."""
        location = self._objects.location
        decided: dict[str, Decision] = {}
        for drop in group:
            decision = decide(
                drop, location.bucket, location.prefix, self._local_sources, self._objects.read
            )
            key = f"{_PENDING}{_digest(drop.main)}.json"
            if decision is not None and self._store.create(key, decision.encode()):
                decided[key] = decision
        for key, decision in decided.items():
            self._finish(key, decision)

    def _help(self) -> None:
        """Finish what others decided and did not finish."""
        now_s = self._clock.monotonic_s()
        pending = {key: self._pending_since_s.get(key, now_s) for key in self._store.keys(_PENDING)}
        self._pending_since_s = pending
        for key, since_s in pending.items():
            if now_s - since_s >= self._patience_s:
                try:
                    decision = Decision.decode(self._store.get(key))
                except DocumentNotFound:
                    continue
                self._finish(key, decision)

    def _finish(self, key: str, decision: Decision) -> None:
        """Do what was decided; what was done of it before is not done twice.

        The decision is void where its object is gone and was not moved: another worker was faster,
        and this one decided on what it had seen before.
        """
        if self._is_moved(*decision.moves[0]):
            for found, target in decision.moves[1:]:
                self._is_moved(found, target)
            self._tell(decision)
            for found, _ in decision.moves:
                self._objects.delete(found)
        self._store.delete(key)

    def _is_moved(self, found: S3Object, target: str) -> bool:
        there = self._objects.find(target)
        if there is not None and there.size_bytes == found.size_bytes:
            return True
        return self._objects.copy(found, target)

    def _tell(self, decision: Decision) -> None:
        name = decision.moves[0][0].key
        if decision.request is not None:
            self._store.put(decision.note, canonical_json({"job": decision.job, "drop": name}))
            self._bus.publish(INTAKE, canonical_json(decision.request), decision.priority)
            self._report(name, f"accepted as {decision.job}")
        elif decision.error is not None:
            self._store.put(decision.note, canonical_json({**decision.error, "drop": name}))
            told = {"request": name, "error": decision.error}
            event = Event(JOB_REJECTED, "", self._clock.now_s(), told)
            self._bus.announce(event.topic, event.encode())
            self._report(name, f"rejected, {decision.error['code']}: {decision.error['message']}")


def _digest(main: S3Object) -> str:
    """Tells one upload from all others."""
    upload = canonical_json([main.key, main.etag, main.size_bytes, main.modified_s])
    return sha256_digest(upload).removeprefix("sha256:")
