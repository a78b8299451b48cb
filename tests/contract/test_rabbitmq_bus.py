"""RabbitMQ as the bus keeps the contract of every bus, and lives through what brokers do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rabbitmq_server import broker

from corepress.adapters.rabbitmq import setup
from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.topology import topology
from corepress.ports.bus import Bus
from corepress.testing.bus_contract import STAGES, BusContract, Connect

TOPOLOGY = topology(STAGES, delays_s=(1, 3600))


def remove_all(link: Link) -> None:
    with link.scratch() as channel:
        for queue in TOPOLOGY.queues:
            channel.queue_delete(queue.name)
        for exchange in TOPOLOGY.exchanges:
            channel.exchange_delete(exchange.name)


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    link = Link(broker().url, "tests")
    yield link
    link.close()


@pytest.fixture
def connect(link: Link) -> Iterator[Connect]:
    """Clients of an empty broker."""
    remove_all(link)
    setup.apply(link, TOPOLOGY)
    clients: list[RabbitBus] = []

    def another() -> Bus:
        clients.append(RabbitBus(broker().url))
        return clients[-1]

    yield another
    for client in clients:
        client.close()


class TestRabbitBus(BusContract):
    @pytest.fixture
    def connect(self, connect: Connect) -> Connect:
        return connect

    def lose(self, bus: Bus) -> None:
        """Cut the connection without a word."""
        connection: Any = bus._link._connection  # type: ignore[attr-defined]
        connection._impl._transport._sock.shutdown(2)
