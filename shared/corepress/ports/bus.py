"""The bus: messages to stages, delivered at least once.

Semantics that every implementation keeps, checked by `corepress.testing.bus_contract`:

- `publish` returns when the message is safe and routed to a queue, or raises;
- a message is in the hands of one receiver at a time;
- a message stays with the bus until its delivery is settled; what a receiver that is gone had in
  its hands is delivered again, as the same attempt;
- a delivery is settled exactly once: acknowledged, retried, postponed or dead-lettered;
- dead letters keep the message and the reason, and are never lost;
- a message that came back from too many receivers that are gone is one of `GIVEN_UP`.

No order is promised but that of dead letters; where it can, a bus prefers what has high priority.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from corepress.domain.artifact import canonical_json, sha256_digest

INTAKE = "intake"
"""The stage whose messages are requests for jobs."""
GIVEN_UP = "given-up"
"""In place of a stage: its messages are those that no receiver of their own stage survived."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up, and why (an error document)."""

    stage: str
    body: bytes
    reason: str

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that tell it from others; equal letters are one."""
        told = canonical_json([self.stage, self.reason]) + self.body
        return sha256_digest(told).removeprefix("sha256:")[:12]


class Delivery(Protocol):
    """One message in the hands of a worker.

    To settle it a second time raises RuntimeError; once its client is closed, `BusUnavailable`.
    """

    @property
    def stage(self) -> str:
        """The stage that the message was sent to."""
        ...

    @property
    def is_given_up(self) -> bool:
        """Whether the message came as one of `GIVEN_UP`."""
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

    def postpone(self, delay_s: float) -> None:
        """Deliver the message again after a delay, as the same attempt: nothing was tried."""
        ...

    def dead_letter(self, reason: str) -> None:
        """Give the message up."""
        ...


class Bus(Protocol):
    """One client of queues by stage, used by one thread at a time.

    Every method may raise `BusUnavailable`.
    """

    def publish(self, stage: str, body: bytes, priority: int = 0) -> None:
        """Send a message to a stage.

        Args:
            stage: whose queue gets it.
            body: the message.
            priority: 0 to 9; a message keeps it until it is a dead letter.

        Raises:
            BusUnavailable: also where the stage has no queue.
        """
        ...

    def receive(self, stages: Collection[str], timeout_s: float) -> Delivery | None:
        """The next message for any of these stages, or None when the time is over."""
        ...

    def dead_letters(self) -> Sequence[DeadLetter]:
        """What was given up, oldest first."""
        ...

    def announce(self, topic: str, body: bytes) -> None:
        """Tell an event to whoever listens; nobody need.

        Args:
            topic: words with dots between them, such as ``job.accepted``.
            body: the event.
        """
        ...

    def redrive(self, chosen: Collection[str]) -> int:
        """Deliver dead letters, which are named by their ids, as first attempts again.

        Returns:
            how many there were; they are dead letters no more.
        """
        ...

    def close(self) -> None:
        """Leave the bus; what is unsettled is delivered again, to others."""
        ...
