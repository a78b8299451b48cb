"""The exchanges and queues of the fleet, as data.

A message's routing key is its stage, wherever it goes: from the exchange of work to the stage's
queue; through a queue for each delay and back to the exchange of work; to the dead letters. What
the broker itself gives up goes to whoever tells the job of it, and makes a dead letter of it.

Requests for jobs have an exchange of their own, under any routing key, so that who may send those
need not be allowed anything else.

Arguments of a queue cannot be changed once it is there: a change here needs another name.
Sources: https://www.rabbitmq.com/docs/quorum-queues, https://www.rabbitmq.com/docs/dlx
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from corepress.ports.bus import GIVEN_UP, INTAKE

JOBS, WORK = "corepress.jobs", "corepress.work"
"""The exchanges for requests for jobs, and for messages to stages."""
EVENTS, DEAD, LOST = "corepress.events", "corepress.dead", "corepress.given-up"
"""The exchanges for events that anybody may listen to, for dead letters, and for what the broker
gives up; the name of the second is also that of its queue."""

DELAYS_S = (1, 2, 4, 8, 16, 32, 64, 128, 300, 900, 3600)
"""What a delay is rounded up to. A message's own time to live would not do: it is looked at only
where the message is the first of its queue."""

_DELIVERY_LIMIT = 16
"""How often a message comes back from receivers that are gone before it counts as their killer."""
_UNLIMITED = {"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1}
"""RabbitMQ 4 limits every quorum queue to 20; to read dead letters is to have them come back."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: Literal["topic", "fanout"]


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue, the exchanges that it is bound to with their keys, and its arguments."""

    name: str
    bindings: tuple[tuple[str, str], ...]
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
            Exchange(JOBS, "fanout"),
            Exchange(WORK, "topic"),
            Exchange(EVENTS, "topic"),
            Exchange(DEAD, "fanout"),
            Exchange(LOST, "fanout"),
            *(Exchange(name, "fanout") for name in delays),
        ),
        queues=(
            Queue(DEAD, ((DEAD, ""),), _UNLIMITED),
            Queue(queue_of(GIVEN_UP), ((LOST, ""),), _UNLIMITED),
            *(
                Queue(name, ((name, ""),), _forwarding(WORK) | {"x-message-ttl": delay_s * 1000})
                for name, delay_s in delays.items()
            ),
            *(
                Queue(
                    queue_of(stage),
                    ((WORK, stage), (JOBS, "")) if stage == INTAKE else ((WORK, stage),),
                    _forwarding(LOST)
                    | {"x-delivery-limit": _DELIVERY_LIMIT, "x-dead-letter-routing-key": stage},
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
