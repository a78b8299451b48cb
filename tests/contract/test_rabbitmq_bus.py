"""RabbitMQ as the bus keeps the contract of every bus, and lives through what brokers do."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from rabbitmq_server import bus_url, private_broker, set_up_anew

from corepress.adapters.rabbitmq import setup
from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.adapters.rabbitmq.letters import ATTEMPT, message_properties
from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.topology import DELAYS_S, JOBS, WORK, Queue, queue_of, topology
from corepress.domain.errors import AccessDenied, BusUnavailable, InvalidRequest
from corepress.ports.bus import GIVEN_UP, INTAKE, Bus, DeadLetter, Delivery
from corepress.testing.bus_contract import STAGES, BusContract, Connect, assert_silent, received

TOPOLOGY = topology((*STAGES, INTAKE), delays_s=(1, 3600))


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    link = Link(bus_url(), "tests")
    yield link
    link.close()


@pytest.fixture
def connect(link: Link) -> Iterator[Connect]:
    """Clients of an empty broker."""
    set_up_anew(link, TOPOLOGY)
    clients: list[Bus] = []

    def another() -> Bus:
        clients.append(RabbitBus(bus_url()))
        return clients[-1]

    yield another
    for client in clients:
        client.close()


@pytest.fixture
def bus(connect: Connect) -> Bus:
    return connect()


@pytest.fixture
def other(connect: Connect) -> Bus:
    return connect()


def cut(bus: Bus) -> None:
    """Let a client's connection be lost without a word."""
    connection: Any = bus._link._connection  # type: ignore[attr-defined]
    connection._impl._transport._sock.shutdown(2)


class TestRabbitBus(BusContract):
    @pytest.fixture
    def connect(self, connect: Connect) -> Connect:
        return connect

    def lose(self, bus: Bus) -> None:
        cut(bus)


def test_the_delays_on_offer_are_all_that_the_runtime_asks_for() -> None:
    assert list(DELAYS_S) == sorted(DELAYS_S)
    assert DELAYS_S[-1] == 3600  # the longest that an error may ask for


def test_a_client_goes_on_after_its_connection_was_lost(bus: Bus, other: Bus) -> None:
    bus.publish("fetch", b"1")
    delivery = received(bus)
    cut(bus)
    bus.publish("convert", b"2")
    for settle in (delivery.acknowledge, lambda: delivery.retry(1), lambda: delivery.retry(0)):
        with pytest.raises(BusUnavailable, match="taken the delivery back"):
            settle()
    assert {received(other).body, received(bus).body} == {b"1", b"2"}
    assert_silent(bus)


def test_a_channel_that_the_broker_closed_costs_the_delivery_alone(bus: Bus, other: Bus) -> None:
    """As it does when work takes longer than its ``consumer_timeout``, while nobody looks."""
    bus.publish("fetch", b"1")
    delivery = received(bus)
    with ThreadPoolExecutor(1) as pool:  # the broker tells while another thread holds the link
        pool.submit(close_channel_of, bus).result()
    bus.publish("convert", b"2")
    with pytest.raises(BusUnavailable, match="taken the delivery back"):
        delivery.acknowledge()
    assert received(other, "fetch").body == b"1"
    assert received(bus, "convert").body == b"2"


def close_channel_of(bus: Bus) -> None:
    with pytest.raises(BusUnavailable), bus._link.incoming() as channel:  # type: ignore[attr-defined]
        channel.queue_declare("corepress.work.none", passive=True)


def test_the_connection_lives_while_its_owner_is_busy(bus: Bus) -> None:
    """A worker says nothing for as long as its stage takes."""
    impatient = RabbitBus(bus_url() + "?heartbeat=1")
    bus.publish("fetch", b"1")
    delivery = received(impatient)
    time.sleep(4)  # the broker gives a client up that was silent for two heartbeats
    delivery.acknowledge()
    impatient.close()
    assert_silent(bus)


def test_nothing_is_lost_when_the_broker_is_killed(bus: Bus, other: Bus) -> None:
    server = private_broker()
    for body in (b"delayed", b"dead", b"held", b"waiting"):
        bus.publish("fetch", body)
    received(bus).retry(1.0)
    received(bus).dead_letter("reason")
    held = received(bus)
    time.sleep(2)  # RabbitMQ 3.10 forgets a queue that was made less than a second before
    with ThreadPoolExecutor(1) as pool:
        server.kill()
        publishing = pool.submit(bus.publish, "convert", b"sent while it was gone")
        server.start()
        publishing.result()
    with pytest.raises(BusUnavailable):
        held.acknowledge()
    bodies = []
    for _ in range(4):
        delivery = received_in_the_end(other)
        bodies.append((delivery.body, delivery.attempt))
        delivery.acknowledge()
    assert sorted(bodies) == [
        (b"delayed", 2),
        (b"held", 1),
        (b"sent while it was gone", 1),
        (b"waiting", 1),
    ]
    assert [letter.body for letter in other.dead_letters()] == [b"dead"]


def received_in_the_end(bus: Bus) -> Delivery:
    """A client whose connection broke learns of it when it next asks."""
    with suppress(BusUnavailable):
        return received(bus)
    return received(bus)


def test_a_message_that_kills_its_receivers_is_given_up(bus: Bus, connect: Connect) -> None:
    bus.publish("convert", b"poison")
    for _ in range(17):
        assert received(bus).body == b"poison"
        cut(bus)
        with pytest.raises(BusUnavailable):
            bus.receive(STAGES, 5.0)
    heir = connect()
    assert_silent(heir)
    delivery = received(heir, "fetch", GIVEN_UP)
    assert (delivery.stage, delivery.body, delivery.is_given_up) == ("convert", b"poison", True)
    delivery.dead_letter("it killed its receivers")
    assert list(heir.dead_letters()) == [
        DeadLetter("convert", b"poison", "it killed its receivers")
    ]
    assert heir.redrive([heir.dead_letters()[0].id]) == 1
    assert not received(heir).is_given_up


def test_a_job_request_comes_from_anywhere(link: Link, bus: Bus) -> None:
    """Whatever its key, it is one for intake, when it is a dead letter too."""
    with link.outgoing() as channel:
        channel.basic_publish(JOBS, "any.key", b"{}", message_properties({}), mandatory=True)
    delivery = received(bus, INTAKE)
    assert (delivery.stage, delivery.attempt) == (INTAKE, 1)
    delivery.dead_letter("reason")
    assert list(bus.dead_letters()) == [DeadLetter(INTAKE, b"{}", "reason")]
    bus.redrive([bus.dead_letters()[0].id])
    received(bus, INTAKE).acknowledge()


def test_a_message_keeps_its_priority(link: Link, bus: Bus) -> None:
    bus.publish("fetch", b"1", 7)
    received(bus).retry(1.0)
    received(bus).postpone(0.0)
    with link.scratch() as channel:
        _, properties, body = channel.basic_get(queue_of("fetch"))
    assert (body, properties.priority) == (b"1", 7)


def test_high_priorities_go_first_where_the_broker_has_them(link: Link, bus: Bus) -> None:
    with link.scratch() as channel:
        version = channel.connection._impl.server_properties["version"]
    for body, priority in ((b"1", 0), (b"2", 9)):
        bus.publish("fetch", body, priority)
    expected = [b"2", b"1"] if int(version.split(".")[0]) >= 4 else [b"1", b"2"]
    assert [settled(bus), settled(bus)] == expected


def settled(bus: Bus) -> bytes:
    delivery = received(bus)
    delivery.acknowledge()
    return delivery.body


@pytest.mark.parametrize("attempt", [None, "many", 0, -1])
def test_a_foreign_clients_message_is_a_first_attempt(link: Link, bus: Bus, attempt: Any) -> None:
    headers = {"x-death": "nonsense"} if attempt is None else {ATTEMPT: attempt}
    with link.outgoing() as channel:
        channel.basic_publish(WORK, "fetch", b"1", message_properties(headers))
    delivery = received(bus)
    assert delivery.attempt == 1
    delivery.retry(0.0)
    assert received(bus).attempt == 2


def test_check_tells_what_is_missing_or_different(link: Link, bus: Bus) -> None:
    bus.publish("convert", b"1")
    assert setup.faults(link, TOPOLOGY) == []
    queue = next(queue for queue in TOPOLOGY.queues if queue.name.endswith("convert"))
    new = Queue("corepress.work.compile", ((WORK, "compile"),), queue.arguments)
    limited = replace(queue, arguments={**queue.arguments, "x-delivery-limit": 3})
    missing, differs = setup.faults(link, replace(TOPOLOGY, queues=(new, limited)))
    assert missing == "corepress.work.compile is missing"
    assert "corepress.work.convert differs" in differs
    assert "x-delivery-limit" in differs
    setup.apply(link, TOPOLOGY)
    assert received(bus).body == b"1"


def test_a_wrong_password() -> None:
    with pytest.raises(AccessDenied, match="refuses"):
        RabbitBus(bus_url().replace(":corepress@", ":wrong@")).dead_letters()


def test_an_unknown_virtual_host() -> None:
    with pytest.raises(AccessDenied, match="refuses"):
        RabbitBus(bus_url().replace("%2F", "none")).dead_letters()


@pytest.mark.parametrize("exchanged", [0, 1, 2])
def test_a_broker_that_is_gone_while_one_comes_in_is_no_refusal(exchanged: int) -> None:
    """Whoever it refuses need not try again, and fails what it is at."""
    with socket.create_server(("127.0.0.1", 0)) as door, ThreadPoolExecutor(1) as pool:
        pool.submit(let_in_half_way, door, exchanged)
        port = door.getsockname()[1]
        url = f"amqp://corepress:corepress@127.0.0.1:{port}/%2F"
        with pytest.raises(BusUnavailable):
            RabbitBus(url).publish("fetch", b"1")


def let_in_half_way(door: socket.socket, exchanged: int) -> None:
    """Pass a client's first words on to the broker, and its answers back, then hang up."""
    broker = urlsplit(bus_url())
    client, _ = door.accept()
    with client, socket.create_connection((broker.hostname, broker.port)) as server:
        for _ in range(exchanged):
            server.sendall(client.recv(4096))
            client.sendall(server.recv(4096))
        client.recv(4096)


def test_no_broker() -> None:
    with pytest.raises(BusUnavailable, match=r"127\.0\.0\.1:1 does not answer"):
        RabbitBus("amqp://127.0.0.1:1/").publish("fetch", b"1")


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "nonsense", "amqp://host:port/", ""])
def test_an_address_that_means_nothing(url: str) -> None:
    with pytest.raises(InvalidRequest, match="address"):
        RabbitBus(url)
