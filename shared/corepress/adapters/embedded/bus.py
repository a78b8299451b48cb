"""A bus in memory: for one process, gone with it. What must survive is in the store."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from corepress.domain.errors import BusUnavailable
from corepress.ports.bus import DeadLetter, Delivery
from corepress.ports.clock import Clock


@dataclass(frozen=True, slots=True, order=True)
class _Message:
    due_s: float
    order: int
    stage: str = field(compare=False)
    body: bytes = field(compare=False)
    attempt: int = field(compare=False)


class MemoryBroker:
    """The queues, one for each stage, and the dead letters.

    Args:
        stages: those that have a queue.
        clock: tells when a delay is over.
    """

    def __init__(self, stages: Collection[str], clock: Clock) -> None:
        self._stages = frozenset(stages)
        self._clock = clock
        self._order = itertools.count()
        self._waiting: list[_Message] = []
        self.dead: list[DeadLetter] = []
        self.changed = threading.Condition()
        """Held while anything of the broker is read or changed; notified of every message."""

    def put(self, stage: str, body: bytes, attempt: int, delay_s: float = 0.0) -> None:
        """Queue a message, due after a delay."""
        if stage not in self._stages:
            raise BusUnavailable(
                f"no queue takes messages for the stage {stage!r}",
                hint=f"there are: {', '.join(sorted(self._stages))}",
            )
        due_s = self._clock.monotonic_s() + delay_s
        self.put_back(_Message(due_s, next(self._order), stage, body, attempt))

    def put_back(self, message: _Message) -> None:
        """Queue a message at the place that it had."""
        with self.changed:
            self._waiting.append(message)
            self.changed.notify_all()

    def take(self, stages: Collection[str], timeout_s: float) -> _Message | None:
        """The oldest due message for these stages; waits for one."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        with self.changed:
            while True:
                first = min((m for m in self._waiting if m.stage in stages), default=None)
                now_s = self._clock.monotonic_s()
                if first is not None and first.due_s <= now_s:
                    self._waiting.remove(first)
                    return first
                if now_s >= deadline_s:
                    return None
                until_s = deadline_s if first is None else min(first.due_s, deadline_s)
                self.changed.wait(until_s - now_s)


class MemoryBus:
    """A `corepress.ports.bus.Bus`: one client of a broker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._held: set[_Message] = set()
        self._closed = False

    def publish(self, stage: str, body: bytes, priority: int = 0) -> None:  # noqa: ARG002
        """Queue a message; one machine does all that it was asked for, in turn."""
        self._refuse_closed()
        self._broker.put(stage, body, attempt=1)

    def receive(self, stages: Collection[str], timeout_s: float) -> Delivery | None:
        """The oldest due message for these stages; waits for one up to ``timeout_s``."""
        with self._broker.changed:
            self._refuse_closed()
            message = self._broker.take(stages, timeout_s)
            if message is None:
                return None
            self._held.add(message)
            return _MemoryDelivery(self, message)

    def dead_letters(self) -> Sequence[DeadLetter]:
        """What was given up, oldest first."""
        with self._broker.changed:
            return tuple(self._broker.dead)

    def announce(self, topic: str, body: bytes) -> None:
        """Nobody listens to a bus in memory."""

    def redrive(self, chosen: Collection[str]) -> int:
        """Queue dead letters again."""
        with self._broker.changed:
            self._refuse_closed()
            again = [letter for letter in self._broker.dead if letter.id in chosen]
            for letter in again:
                self._broker.put(letter.stage, letter.body, attempt=1)
                self._broker.dead.remove(letter)
            return len(again)

    def close(self) -> None:
        """Give back what is in this client's hands."""
        with self._broker.changed:
            self._closed = True
            for message in self._held:
                self._broker.put_back(message)
            self._held.clear()

    def acknowledge(self, message: _Message) -> None:
        """Let a held message go."""
        with self._broker.changed:
            self._refuse_closed()
            if message not in self._held:
                raise RuntimeError("a delivery is settled exactly once")
            self._held.remove(message)

    def requeue(self, message: _Message, attempt: int, delay_s: float) -> None:
        """Have a held message delivered again."""
        with self._broker.changed:
            self.acknowledge(message)
            self._broker.put(message.stage, message.body, attempt, delay_s)

    def bury(self, message: _Message, reason: str) -> None:
        """Make a dead letter of a held message."""
        with self._broker.changed:
            self.acknowledge(message)
            self._broker.dead.append(DeadLetter(message.stage, message.body, reason))

    def _refuse_closed(self) -> None:
        if self._closed:
            raise BusUnavailable("this client has left the bus")


class _MemoryDelivery:
    def __init__(self, bus: MemoryBus, message: _Message) -> None:
        self._bus = bus
        self._message = message

    @property
    def stage(self) -> str:
        return self._message.stage

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def is_given_up(self) -> bool:
        return False  # whoever receives here is gone together with the bus

    @property
    def attempt(self) -> int:
        return self._message.attempt

    def acknowledge(self) -> None:
        self._bus.acknowledge(self._message)

    def retry(self, delay_s: float) -> None:
        self._bus.requeue(self._message, self.attempt + 1, delay_s)

    def postpone(self, delay_s: float) -> None:
        self._bus.requeue(self._message, self.attempt, delay_s)

    def dead_letter(self, reason: str) -> None:
        self._bus.bury(self._message, reason)
