"""Listening to events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from corepress.adapters.rabbitmq.link import Link, Outage
from corepress.adapters.rabbitmq.topology import EVENTS

Listen = Callable[[float], bytes | None]
"""Gives the next event, or None when so many seconds are over."""


@contextmanager
def listening(link: Link, topics: Collection[str]) -> Iterator[Listen]:
    """Hear what is announced from now on, until the context is left.

    Args:
        link: a connection that nobody else uses meanwhile.
        topics: patterns, in which ``*`` is a word and ``#`` any number of them.

    Raises:
        BusUnavailable, AccessDenied: see `translated`; what was announced meanwhile is missed.
    """
    arrived: deque[bytes] = deque()

    def keep(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        arrived.append(body)

    with link.scratch() as channel:
        queue = channel.queue_declare("", exclusive=True, auto_delete=True).method.queue
        for topic in topics:
            channel.queue_bind(queue, EVENTS, topic)
        channel.basic_consume(queue, keep, auto_ack=True)

        def listen(timeout_s: float) -> bytes | None:
            if not arrived:
                link.wait(timeout_s)
            if not channel.is_open:
                raise Outage("the broker closed the channel that was listened on")
            return arrived.popleft() if arrived else None

        yield listen
