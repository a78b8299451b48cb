"""Dead letters: what their messages carry, reading them where they are, sending them again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pika import BasicProperties

from corepress.adapters.rabbitmq.topology import DEAD, WORK
from corepress.domain.artifact import canonical_json
from corepress.domain.errors import InternalError
from corepress.ports.bus import DeadLetter

ATTEMPT = "corepress-attempt"
"""The header that counts attempts; the broker's own counts begin again on the way through a delay,
and RabbitMQ 4 believes none that a client sends."""
REASON = "corepress-reason"
"""The header of a dead letter that says why; one that the broker made has none."""

_PERSISTENT = 2


def message_properties(headers: Mapping[str, Any]) -> BasicProperties:
    """What goes with every message: it is to be kept on disk; and its headers."""
    return BasicProperties(
        content_type="application/json", delivery_mode=_PERSISTENT, headers=dict(headers)
    )


def browse(channel: Any) -> Iterator[tuple[int, DeadLetter]]:
    """The dead letters with their numbers on the channel, oldest first.

    What is not acknowledged goes back to its place when the channel is closed.
    """
    while True:
        method, properties, body = channel.basic_get(DEAD)
        if method is None:
            return
        headers = properties.headers or {}
        reason = headers[REASON] if REASON in headers else _brokers_reason(headers)
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


def _brokers_reason(headers: dict[str, Any]) -> str:
    deaths = headers.get("x-death") or [{}]
    error = InternalError(
        f"the broker gave it up: {deaths[0].get('reason', 'nobody knows why')}",
        hint="delivery_limit: every worker that took it ended without a word; look into their logs",
    )
    return canonical_json(error.document()).decode()
