"""A bus in memory: for one process, gone with it. What must survive is in the store."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from corepress.ports.bus import DeadLetter, Delivery
from corepress.ports.clock import Clock


@dataclass(order=True)
class _Message:
    due_s: float
    order: int
    stage: str = field(compare=False)
    body: bytes = field(compare=False)
    attempt: int = field(compare=False, default=1)


class MemoryBus:
    """A `corepress.ports.bus.Bus` in memory; safe to use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._order = itertools.count()
        self._queue: list[_Message] = []
        self._dead: list[DeadLetter] = []
        self._changed = threading.Condition()

    def publish(self, stage: str, body: bytes) -> None:
        """Queue a message."""
        self._queue_message(stage, body, attempt=1, delay_s=0.0)

    def receive(self, stages: Collection[str], timeout_s: float) -> Delivery | None:
        """The oldest due message for these stages; waits for one up to ``timeout_s``."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        with self._changed:
            while True:
                message, wait_s = self._take(stages)
                if message is not None:
                    return _MemoryDelivery(self, message)
                remaining_s = deadline_s - self._clock.monotonic_s()
                if remaining_s <= 0:
                    return None
                self._changed.wait(min(remaining_s, wait_s))

    def dead_letters(self) -> Sequence[DeadLetter]:
        """What was given up, oldest first."""
        with self._changed:
            return tuple(self._dead)

    def _take(self, stages: Collection[str]) -> tuple[_Message | None, float]:
        now_s = self._clock.monotonic_s()
        matching = [m for m in self._queue if m.stage in stages]
        if not matching:
            return None, float("inf")
        first = min(matching)
        if first.due_s > now_s:
            return None, first.due_s - now_s
        self._queue.remove(first)
        return first, 0.0

    def _queue_message(self, stage: str, body: bytes, attempt: int, delay_s: float) -> None:
        with self._changed:
            due_s = self._clock.monotonic_s() + delay_s
            self._queue.append(_Message(due_s, next(self._order), stage, body, attempt))
            self._changed.notify_all()

    def _bury(self, letter: DeadLetter) -> None:
        with self._changed:
            self._dead.append(letter)


class _MemoryDelivery:
    def __init__(self, bus: MemoryBus, message: _Message) -> None:
        self._bus = bus
        self._message = message
        self._settled = False

    @property
    def stage(self) -> str:
        return self._message.stage

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def attempt(self) -> int:
        return self._message.attempt

    def acknowledge(self) -> None:
        self._settle()

    def retry(self, delay_s: float) -> None:
        self._settle()
        message = self._message
        self._bus._queue_message(message.stage, message.body, message.attempt + 1, delay_s)

    def dead_letter(self, reason: str) -> None:
        self._settle()
        self._bus._bury(DeadLetter(self._message.stage, self._message.body, reason))

    def _settle(self) -> None:
        if self._settled:
            raise RuntimeError("a delivery is settled exactly once")
        self._settled = True
