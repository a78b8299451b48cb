"""A fleet's bus and store, as its settings name them: RabbitMQ and an S3 bucket."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from corepress.adapters.rabbitmq import setup
from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.listener import Listen, listening
from corepress.adapters.rabbitmq.topology import Topology, topology
from corepress.adapters.s3.client import S3Location
from corepress.adapters.s3.store import S3Store
from corepress.bootstrap import stage_names
from corepress.config import Settings
from corepress.domain.errors import InvalidRequest
from corepress.ports.bus import INTAKE


def open_bus(settings: Settings, name: str = "corepress") -> RabbitBus:
    """A client of the fleet's broker, which is connected to at its first use.

    Raises:
        InvalidRequest: no broker is named, or not in a way that means anything.
    """
    return RabbitBus(_bus_address(settings), name)


def open_store(settings: Settings, cache: Path | None = None) -> S3Store:
    """The fleet's store.

    Args:
        settings: name it.
        cache: for what is downloaded; by default in the state folder.

    Raises:
        InvalidRequest: no store is named, or not in a way that means anything.
    """
    return S3Store(_store_location(settings), cache or settings.state / "downloads")


def apply_topology(settings: Settings) -> Topology:
    """Have the broker what a fleet needs.

    Raises:
        InvalidRequest: see `open_bus`.
        BusUnavailable, AccessDenied: see `setup.apply`.
    """
    with _link(settings) as link:
        setup.apply(link, _topology())
    return _topology()


def topology_faults(settings: Settings) -> list[str]:
    """What the broker lacks, or has otherwise than a fleet needs it.

    Raises:
        InvalidRequest: see `open_bus`.
        BusUnavailable, AccessDenied: see `setup.faults`.
    """
    with _link(settings) as link:
        return setup.faults(link, _topology())


@contextmanager
def events(settings: Settings, topics: Collection[str]) -> Iterator[Listen]:
    """Hear what is announced from now on; see `listening`."""
    with _link(settings) as link, listening(link, topics) as listen:
        yield listen


def _topology() -> Topology:
    return topology((INTAKE, *stage_names()))


@contextmanager
def _link(settings: Settings) -> Iterator[Link]:
    link = Link(_bus_address(settings), "corepress")
    try:
        yield link
    finally:
        link.close()


def _bus_address(settings: Settings) -> str:
    if settings.bus is None:
        raise InvalidRequest(
            "no message bus is named",
            hint="set COREPRESS_BUS to amqp://user:password@host:5672/%2F",
        )
    return settings.bus


def _store_location(settings: Settings) -> S3Location:
    hint = "set COREPRESS_STORE to s3://bucket/prefix, and AWS_ENDPOINT_URL where it is not AWS"
    if settings.store is None:
        raise InvalidRequest("no store is named", hint=hint)
    parts = urlsplit(settings.store)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise InvalidRequest(f"the store's address means nothing: {settings.store!r}", hint=hint)
    prefix = parts.path.strip("/")
    return S3Location(
        parts.netloc,
        f"{prefix}/" if prefix else "",
        path_style=not settings.s3_virtual_hosts,
    )
