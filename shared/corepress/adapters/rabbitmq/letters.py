"""Dead letters: what their messages carry, reading them where they are, sending them again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pika import BasicProperties

from corepress.adapters.rabbitmq.topology import DEAD, WORK
from corepress.ports.bus import DeadLetter

ATTEMPT = "corepress-attempt"
"""The header that counts attempts; the broker's own counts begin again on the way through a delay,
and RabbitMQ 4 believes none that a client sends."""
REASON = "corepress-reason"
"""The header of a dead letter that says why."""

_PERSISTENT = 2


def message_properties(headers: Mapping[str, Any], priority: int = 0) -> BasicProperties:
    """What goes with every message: it is to be kept on disk; its headers, and its priority."""
    return BasicProperties(
        content_type="application/json",
        delivery_mode=_PERSISTENT,
        headers=dict(headers),
        priority=priority,
    )


def browse(channel: Any) -> Iterator[tuple[int, DeadLetter]]:
    """The dead letters with their numbers on the channel, oldest first.

    What is not acknowledged goes back to its place when the channel is closed.
    """
    while True:
        method, properties, body = channel.basic_get(DEAD)
        if method is None:
            return
        reason = str((properties.headers or {}).get(REASON, ""))
        yield method.delivery_tag, DeadLetter(method.routing_key, body, reason)


def redrive(channel: Any, letters: Collection[str]) -> int:
    """Send dead letters, which are named by their ids, to their stages again.

    Returns:
        how many.
    """
    channel.confirm_delivery()
    chosen = [found for found in browse(channel) if found[1].id in letters]
    for tag, letter in chosen:
        properties = message_properties({ATTEMPT: 1})
        channel.basic_publish(WORK, letter.stage, letter.body, properties, mandatory=True)
        channel.basic_ack(tag)
    return len(chosen)
