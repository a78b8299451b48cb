"""Making a broker's exchanges and queues, and comparing them with what they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pika.exceptions import ChannelClosedByBroker

from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.topology import Exchange, Queue, Topology

_NOT_FOUND, _DIFFERS = 404, 406


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
            channel.queue_bind(queue.name, queue.exchange, queue.key)


def faults(link: Link, wanted: Topology) -> list[str]:
    """What is missing or has other properties than it should have; nothing is changed.

    Whether a queue is bound to its exchange shows only when a message is sent.

    Raises:
        BusUnavailable, AccessDenied: see `apply`.
    """
    return [
        *_faults(link, "exchange", wanted.exchanges, _look_at_exchange, _declare_exchange),
        *_faults(link, "queue", wanted.queues, _look_at_queue, _declare_queue),
    ]


def _faults(
    link: Link,
    what: str,
    wanted: tuple[Any, ...],
    look_at: Callable[[Any, Any], None],
    declare: Callable[[Any, Any], None],
) -> Iterator[str]:
    for each in wanted:
        try:
            with link.scratch() as channel:
                look_at(channel, each)
                declare(channel, each)  # it is there: the broker compares its properties
        except ChannelClosedByBroker as error:
            if error.reply_code == _NOT_FOUND:
                yield f"the {what} {each.name} is missing"
            elif error.reply_code == _DIFFERS:
                yield f"the {what} {each.name} differs: {error.reply_text}"
            else:
                raise


def _look_at_exchange(channel: Any, exchange: Exchange) -> None:
    channel.exchange_declare(exchange.name, passive=True)


def _declare_exchange(channel: Any, exchange: Exchange) -> None:
    channel.exchange_declare(exchange.name, exchange.kind, durable=True)


def _look_at_queue(channel: Any, queue: Queue) -> None:
    channel.queue_declare(queue.name, passive=True)


def _declare_queue(channel: Any, queue: Queue) -> None:
    channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
