"""The exchanges and queues of the fleet, as data.

A message's routing key is its stage, wherever it goes: from the exchange of work to the stage's
queue; through a queue for each delay and back to the exchange of work; to the dead letters.

Arguments of a queue cannot be changed once it is there: a change here needs another name.
Sources: https://www.rabbitmq.com/docs/quorum-queues, https://www.rabbitmq.com/docs/dlx
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

WORK, EVENTS, DEAD = "corepress.work", "corepress.events", "corepress.dead"
"""The exchanges for messages to stages, for events that anybody may listen to, for dead letters;
the last is also the name of their queue."""

DELAYS_S = (1, 2, 4, 8, 16, 32, 64, 128, 300, 900, 3600)
"""What a delay is rounded up to. A message's own time to live would not do: it is looked at only
where the message is the first of its queue."""

_DELIVERY_LIMIT = 16
"""How often a message comes back from receivers that are gone before it counts as their killer."""
_NO_LIMIT = 2**31 - 1
"""RabbitMQ 4 limits every quorum queue to 20; to read dead letters is to have them come back."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: Literal["topic", "fanout"]


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue, what it is bound to, and its arguments."""

    name: str
    exchange: str
    key: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Topology:
    """Every exchange and queue."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]


def queue_of(stage: str) -> str:
    """The name of a stage's queue."""
    return f"{WORK}.{stage}"


def delay_exchange(delay_s: int) -> str:
    """The name of the exchange, and of its queue, that hold messages for one of `DELAYS_S`."""
    return f"corepress.delay.{delay_s}s"


def topology(stages: Collection[str], delays_s: Collection[int] = DELAYS_S) -> Topology:
    """What a fleet with these stages needs of its broker."""
    delays = {delay_exchange(delay_s): delay_s for delay_s in delays_s}
    return Topology(
        exchanges=(
            Exchange(WORK, "topic"),
            Exchange(EVENTS, "topic"),
            Exchange(DEAD, "fanout"),
            *(Exchange(name, "fanout") for name in delays),
        ),
        queues=(
            Queue(DEAD, DEAD, "", {"x-queue-type": "quorum", "x-delivery-limit": _NO_LIMIT}),
            *(
                Queue(name, name, "", _forwarding(WORK) | {"x-message-ttl": delay_s * 1000})
                for name, delay_s in delays.items()
            ),
            *(
                Queue(
                    queue_of(stage),
                    WORK,
                    stage,
                    _forwarding(DEAD) | {"x-delivery-limit": _DELIVERY_LIMIT},
                )
                for stage in stages
            ),
        ),
    )


def _forwarding(exchange: str) -> dict[str, Any]:
    """Arguments of a queue whose dead letters go to an exchange, and are kept until it has them.

    The default strategy loses what the exchange does not take; this one refuses messages of a full
    queue instead of dropping older ones.
    """
    return {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
