"""A RabbitMQ broker as the bus.

A worker is busy for minutes with what it received, so nothing may wait in its hands meanwhile: it
asks the queues one by one, and subscribes to them only while all are empty.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tenacity

from corepress.adapters.rabbitmq import letters
from corepress.adapters.rabbitmq.letters import ATTEMPT, REASON, message_properties
from corepress.adapters.rabbitmq.link import Link, Outage
from corepress.adapters.rabbitmq.topology import (
    DEAD,
    DELAYS_S,
    EVENTS,
    WORK,
    delay_exchange,
    queue_of,
)
from corepress.ports.bus import GIVEN_UP, DeadLetter, Delivery

_LONGEST_OUTAGE_S = 45.0
"""A broker that restarts is back in 4 to 10 seconds."""


@dataclass(frozen=True, slots=True)
class _Message:
    """What came over a channel; ``tag`` is its number on it, ``queue`` a stage or `GIVEN_UP`."""

    channel: Any
    tag: int
    queue: str
    key: str
    body: bytes
    headers: Mapping[str, Any]
    priority: int

    @staticmethod
    def arrived(channel: Any, queue: str, method: Any, properties: Any, body: bytes) -> _Message:
        """What pika gives."""
        headers, priority = properties.headers or {}, properties.priority or 0
        tag, key = method.delivery_tag, method.routing_key
        return _Message(channel, tag, queue, key, body, headers, priority)

    @property
    def stage(self) -> str:
        # a client's key for the exchange of jobs is its own
        return self.key if self.is_given_up else self.queue

    @property
    def is_given_up(self) -> bool:
        return self.queue == GIVEN_UP

    @property
    def attempt(self) -> int:
        attempt = self.headers.get(ATTEMPT)
        return attempt if isinstance(attempt, int) and attempt > 0 else 1


class RabbitBus:
    """A `corepress.ports.bus.Bus`: one client of a broker.

    Args:
        url: see `Link`.
        name: what the broker's listings call this client.
    """

    def __init__(self, url: str, name: str = "corepress") -> None:
        self._link = Link(url, name)

    def publish(self, stage: str, body: bytes, priority: int = 0) -> None:
        """Send a message to a stage; returns when its queue has it on disk.

        RabbitMQ 4 prefers those of priority 5 and more; older ones know none in quorum queues.
        """
        self._send(WORK, stage, body, {ATTEMPT: 1}, priority)

    def receive(self, stages: Collection[str], timeout_s: float) -> Delivery | None:
        """The next message for any of these stages; waits for one up to ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        with self._link.incoming() as channel:
            message = self._first(channel, stages) or self._wait(channel, stages, deadline_s)
        return None if message is None else _RabbitDelivery(self, message)

    def dead_letters(self) -> Sequence[DeadLetter]:
        """What was given up, oldest first."""
        with self._link.scratch() as channel:
            return [letter for _, letter in letters.browse(channel)]

    def announce(self, topic: str, body: bytes) -> None:
        """Tell an event; where no queue is bound to its topic, it is gone."""
        self._send(EVENTS, topic, body, {}, 0, mandatory=False)

    def redrive(self, chosen: Collection[str]) -> int:
        """Send dead letters to their stages again."""
        with self._link.scratch() as channel:
            return letters.redrive(channel, chosen)

    def close(self) -> None:
        """Leave the broker, which delivers again what is unsettled."""
        self._link.close()

    def acknowledge(self, message: _Message) -> None:
        """Let a message go."""
        with self._link.incoming(message.channel) as channel:
            channel.basic_ack(message.tag)

    def requeue(self, message: _Message, attempt: int, delay_s: float) -> None:
        """Have a message delivered again: another one is safe before this one is let go."""
        delay = next((each for each in DELAYS_S if each >= delay_s), DELAYS_S[-1])
        exchange = delay_exchange(delay) if delay_s > 0 else WORK
        self._replace(message, exchange, {ATTEMPT: attempt})

    def bury(self, message: _Message, reason: str) -> None:
        """Make a dead letter of a message."""
        self._replace(message, DEAD, {REASON: reason})

    def _replace(self, message: _Message, exchange: str, headers: Mapping[str, Any]) -> None:
        with self._link.incoming(message.channel):
            pass  # no second message where the first is no longer ours
        self._send(exchange, message.stage, message.body, headers, message.priority)
        self.acknowledge(message)

    def _first(self, channel: Any, stages: Collection[str]) -> _Message | None:
        """A message that waits in one of the queues."""
        for stage in random.sample(list(stages), len(stages)):  # none is always the last
            method, properties, body = channel.basic_get(queue_of(stage))
            if method is not None:
                return _Message.arrived(channel, stage, method, properties, body)
        return None

    def _wait(self, channel: Any, stages: Collection[str], deadline_s: float) -> _Message | None:
        """Subscribe to all queues until there is a message."""
        arrived: list[_Message] = []

        def subscribe(stage: str) -> str:
            def keep(_: Any, method: Any, properties: Any, body: bytes) -> None:
                arrived.append(_Message.arrived(channel, stage, method, properties, body))

            tag: str = channel.basic_consume(queue_of(stage), keep)
            return tag

        if time.monotonic() >= deadline_s:
            return None
        tags = [subscribe(stage) for stage in stages]
        while not arrived and (left_s := deadline_s - time.monotonic()) > 0:
            self._link.wait(left_s)
            if not channel.is_open:
                raise Outage("the broker closed the channel that was received on")
        for tag in tags:
            channel.basic_cancel(tag)
        for unneeded in arrived[1:]:
            channel.basic_nack(unneeded.tag, requeue=True)
        return arrived[0] if arrived else None

    def _send(
        self,
        exchange: str,
        key: str,
        body: bytes,
        headers: Mapping[str, Any],
        priority: int,
        mandatory: bool = True,
    ) -> None:
        """Publish, confirmed and, where that is mandatory, routed.

        A broker that was there before is waited for; a message whose confirmation was lost goes out
        twice, as every message may.
        """
        properties = message_properties(headers, priority)

        def call() -> None:
            with self._link.outgoing() as channel:
                channel.basic_publish(exchange, key, body, properties, mandatory=mandatory)

        if not self._link.was_open:
            call()
            return
        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Outage),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=3),
            stop=tenacity.stop_after_delay(_LONGEST_OUTAGE_S),
            reraise=True,
        )(call)


class _RabbitDelivery:
    def __init__(self, bus: RabbitBus, message: _Message) -> None:
        self._bus = bus
        self._message = message
        self._is_settled = False

    @property
    def stage(self) -> str:
        return self._message.stage

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def is_given_up(self) -> bool:
        return self._message.is_given_up

    @property
    def attempt(self) -> int:
        return self._message.attempt

    def acknowledge(self) -> None:
        self._settle(self._bus.acknowledge)

    def retry(self, delay_s: float) -> None:
        self._settle(self._bus.requeue, self.attempt + 1, delay_s)

    def postpone(self, delay_s: float) -> None:
        self._settle(self._bus.requeue, self.attempt, delay_s)

    def dead_letter(self, reason: str) -> None:
        self._settle(self._bus.bury, reason)

    def _settle(self, settle: Callable[..., None], *how: Any) -> None:
        if self._is_settled:
            raise RuntimeError("a delivery is settled exactly once")
        settle(self._message, *how)
        self._is_settled = True
