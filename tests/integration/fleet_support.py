"""A fleet of this machine for the tests of a module, and what its clients see of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pika
import psutil

sys.path.append(str(Path(__file__).parents[1]))

from fleet_local import BUCKET, LIGHT, LocalFleet

from corepress.adapters.s3.client import S3Location, open_client

PATIENCE_S = 180.0


def wait_until(done: Callable[[], bool], what: Callable[[], str]) -> None:
    """Until something is so."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline_s, what()
        time.sleep(0.05)


def start_workers(fleet: LocalFleet) -> None:
    """Several, each of which can do part of the work."""
    for stages in (LIGHT, ("convert",), ("fetch", "normalize", "convert", "publish")):
        fleet.add_worker(*stages)


class Client:
    """A client in any language: it knows AMQP, JSON, and the names that the description gives."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        self._queue = self._channel.queue_declare("", exclusive=True).method.queue
        for topic in ("job.#", "step.#"):
            self._channel.queue_bind(self._queue, "corepress.events", topic)
        self.events: list[tuple[str, dict[str, Any]]] = []

    def send(self, body: bytes) -> None:
        """Send a request for a job."""
        self._channel.basic_publish("corepress.jobs", "", body, mandatory=True)

    def heard(self, topic: str) -> list[dict[str, Any]]:
        """The events whose topic begins so."""
        while True:
            method, _, body = self._channel.basic_get(self._queue, auto_ack=True)
            if method is None:
                break
            self.events.append((method.routing_key, json.loads(body)))
        return [event for key, event in self.events if key.startswith(topic)]

    def wait_for(
        self, topic: str, wanted: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        """The first such event, once it has come."""
        found: list[dict[str, Any]] = []

        def came() -> bool:
            found.extend(event for event in self.heard(topic) if wanted(event))
            return bool(found)

        wait_until(came, lambda: f"{topic}: {[key for key, _ in self.events]}")
        return found[0]

    def close(self) -> None:
        """Leave."""
        self._connection.close()


@contextmanager
def client_of(fleet: LocalFleet) -> Iterator[Client]:
    """A client that hears all events from now on."""
    client = Client(fleet.broker.url)
    try:
        yield client
    finally:
        with suppress(pika.exceptions.AMQPError):  # its broker may have been killed
            client.close()


def drop(name: str, body: bytes) -> None:
    """Upload a file to the fleet's drop folder."""
    open_client(S3Location(BUCKET)).put_object(Bucket=BUCKET, Key=f"fleet/drop/{name}", Body=body)


def published(address: str) -> dict[str, bytes]:
    """The files under an address in the fleet's store, by path."""
    prefix = address.removeprefix(f"s3://{BUCKET}/") + "/"
    client = open_client(S3Location(BUCKET))
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    return {
        entry["Key"].removeprefix(prefix): client.get_object(Bucket=BUCKET, Key=entry["Key"])[
            "Body"
        ].read()
        for entry in listed
    }


def worker_of(event: Mapping[str, Any]) -> psutil.Process:
    """The process that told an event."""
    _, pid, _ = event["data"]["worker"].rsplit("-", 2)
    return psutil.Process(int(pid))
