"""Somebody who takes messages out of the queues and sends them again: twice, and in disorder."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pika
from pika.exceptions import AMQPError

from corepress.adapters.rabbitmq.topology import WORK, queue_of

_MOST_HELD = 8
_PAUSE_S = 0.25
_TWICE = 0.15
_SEEN = "chaos-seen"
"""The header of a message that was looked at: else a queue that is slow would fill with doubles."""


class Disturber:
    """Disturbs queues in a thread of its own, until it is stopped.

    It loses nothing: what it took it lets go only when the broker has it again.

    Args:
        url: of the broker.
        stages: whose queues.
        seed: of what it does.

    Attributes:
        did: how many messages were duplicated, and how many changed places.
    """

    def __init__(self, url: str, stages: Sequence[str], seed: int) -> None:
        self.did: Counter[str] = Counter()
        self._url = url
        self._stages = stages
        self._drawn = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave messages alone."""
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(_PAUSE_S):
            with suppress(AMQPError, OSError):  # the broker was killed, and comes back
                connection = pika.BlockingConnection(pika.URLParameters(self._url))
                channel = connection.channel()
                channel.confirm_delivery()
                while not self._over.wait(_PAUSE_S):
                    self._disturb(channel, self._drawn.choice(self._stages))
                connection.close()

    def _is_doubled(self, properties: Any) -> bool:
        """Draw whether to double a message, when it is seen for the first time."""
        headers = properties.headers or {}
        properties.headers = {**headers, _SEEN: True}
        return _SEEN not in headers and self._drawn.random() < _TWICE

    def _disturb(self, channel: Any, stage: str) -> None:
        taken = []
        while len(taken) < _MOST_HELD:
            method, properties, body = channel.basic_get(queue_of(stage))
            if method is None:
                break
            taken.append((method.delivery_tag, properties, body))
        twice = [each for each in taken if self._is_doubled(each[1])]
        sent = taken + twice
        self._drawn.shuffle(sent)
        for _, properties, body in sent:
            channel.basic_publish(WORK, stage, body, properties, mandatory=True)
        for tag, _, _ in taken:
            channel.basic_ack(tag)
        self.did["duplicated"] += len(twice)
        self.did["reordered"] += sum(a is not b for a, b in zip(taken, sent, strict=False))
