"""The bus: messages to stages, delivered at least once.

Semantics that every implementation keeps, checked by `corepress.testing.bus_contract`:

- `publish` returns when the message is safe and routed to a queue, or raises;
- a message stays with the bus until its delivery is settled; one whose receiver is gone is
  delivered again;
- a delivery is settled exactly once: acknowledged, retried after a delay, or dead-lettered;
- dead letters keep the message and the reason, and are never lost.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up, and why (an error document)."""

    stage: str
    body: bytes
    reason: str


class Delivery(Protocol):
    """One message in the hands of a worker."""

    @property
    def stage(self) -> str:
        """The stage whose queue the message came from."""
        ...

    @property
    def body(self) -> bytes:
        """The message."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first time, one more after each `retry`."""
        ...

    def acknowledge(self) -> None:
        """The work is done, and what follows is published."""
        ...

    def retry(self, delay_s: float) -> None:
        """Deliver the message again after a delay, as the next attempt."""
        ...

    def dead_letter(self, reason: str) -> None:
        """Give the message up."""
        ...


class Bus(Protocol):
    """Queues by stage. Every method may raise `BusUnavailable`."""

    def publish(self, stage: str, body: bytes) -> None:
        """Send a message to a stage."""
        ...

    def receive(self, stages: Collection[str], timeout_s: float) -> Delivery | None:
        """The next message for any of these stages, or None when the time is over."""
        ...

    def dead_letters(self) -> Sequence[DeadLetter]:
        """What was given up, oldest first."""
        ...
