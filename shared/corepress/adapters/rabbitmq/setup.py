"""Making a broker's exchanges and queues, and comparing them with what they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pika.exceptions import ChannelClosedByBroker

from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.topology import Exchange, Queue, Topology

_NOT_FOUND, _DIFFERS = 404, 406

Part = TypeVar("Part", Exchange, Queue)
Declare = Callable[[Any, Part], None]


def apply(link: Link, wanted: Topology) -> None:
    """Make what is missing; what is there is left as it is.

    Raises:
        BusUnavailable: no broker answers, or something is there with other properties.
        AccessDenied: the user may not.
    """
    with link.scratch() as channel:
        for exchange in wanted.exchanges:
            _declare_exchange(channel, exchange)
        for queue in wanted.queues:
            _declare_queue(channel, queue)
            for exchange_name, key in queue.bindings:
                channel.queue_bind(queue.name, exchange_name, key)


def faults(link: Link, wanted: Topology) -> list[str]:
    """What is missing or has other properties than it should have; nothing is changed.

    Whether a queue is bound to its exchange shows only when a message is sent.

    Raises:
        BusUnavailable, AccessDenied: see `apply`.
    """
    found = [
        *(_fault(link, each, _look_at_exchange, _declare_exchange) for each in wanted.exchanges),
        *(_fault(link, each, _look_at_queue, _declare_queue) for each in wanted.queues),
    ]
    return [fault for fault in found if fault is not None]


def _fault(link: Link, wanted: Part, look_at: Declare[Part], declare: Declare[Part]) -> str | None:
    with link.scratch() as channel:
        try:
            look_at(channel, wanted)
            declare(channel, wanted)  # it is there: the broker compares its properties
        except ChannelClosedByBroker as error:
            if error.reply_code == _NOT_FOUND:
                return f"{wanted.name} is missing"
            if error.reply_code == _DIFFERS:
                return f"{wanted.name} differs: {error.reply_text}"
            raise
    return None


def _look_at_exchange(channel: Any, exchange: Exchange) -> None:
    channel.exchange_declare(exchange.name, passive=True)


def _declare_exchange(channel: Any, exchange: Exchange) -> None:
    channel.exchange_declare(exchange.name, exchange.kind, durable=True)


def _look_at_queue(channel: Any, queue: Queue) -> None:
    channel.queue_declare(queue.name, passive=True)


def _declare_queue(channel: Any, queue: Queue) -> None:
    channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
