"""The semantics of `corepress.ports.bus` as tests: inherit `BusContract` and supply `connect`."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from corepress.domain.errors import BusUnavailable
from corepress.ports.bus import Bus, DeadLetter, Delivery

Connect = Callable[[], Bus]
Settle = Callable[[Delivery], None]

STAGES = ("fetch", "convert", "publish")
"""The stages that have a queue."""

_PATIENCE_S = 30.0
"""How long a message may take that must come."""
_SILENCE_S = 0.2
"""How long nothing may come where nothing must."""
_DELAY_S = 0.2

SETTLEMENTS: dict[str, Settle] = {
    "acknowledge": lambda delivery: delivery.acknowledge(),
    "retry": lambda delivery: delivery.retry(0.0),
    "postpone": lambda delivery: delivery.postpone(0.0),
    "dead_letter": lambda delivery: delivery.dead_letter("reason"),
}

settlements = pytest.mark.parametrize("settle", SETTLEMENTS.values(), ids=SETTLEMENTS.keys())


def received(bus: Bus, *stages: str) -> Delivery:
    """The next delivery, which must come."""
    delivery = bus.receive(stages or STAGES, _PATIENCE_S)
    assert delivery is not None
    return delivery


def assert_silent(bus: Bus, *stages: str) -> None:
    """Nothing comes."""
    delivery = bus.receive(stages or STAGES, _SILENCE_S)
    assert delivery is None, delivery.body


class BusContract:
    """What every bus must do.

    A subclass supplies the fixture `connect`, and overrides `lose` where a client can be cut off
    without having been closed.
    """

    @pytest.fixture
    def connect(self) -> Connect:
        """Gives at every call another client of the same bus, which is empty at first."""
        raise NotImplementedError

    @pytest.fixture
    def bus(self, connect: Connect) -> Bus:
        """A client."""
        return connect()

    @pytest.fixture
    def other(self, connect: Connect) -> Bus:
        """Another client of the same bus."""
        return connect()

    def lose(self, bus: Bus) -> None:
        """Let a client vanish, as it does when its process is killed."""
        bus.close()

    # publish returns when the message is safe and routed to a queue, or raises

    @pytest.mark.parametrize("body", [b"{}", b"", "größer".encode(), b"\0" * 200_000])
    def test_what_is_published_is_delivered(self, bus: Bus, other: Bus, body: bytes) -> None:
        bus.publish("convert", body)
        delivery = received(other, "convert")
        assert (delivery.stage, delivery.body, delivery.attempt) == ("convert", body, 1)
        delivery.acknowledge()

    def test_a_message_outlives_its_sender(self, bus: Bus, connect: Connect) -> None:
        bus.publish("fetch", b"1")
        bus.close()
        assert received(connect()).body == b"1"

    def test_a_waiting_receiver_gets_what_is_published(self, bus: Bus, other: Bus) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(received, other, "fetch")
            bus.publish("fetch", b"1")
            assert waiting.result().body == b"1"

    def test_a_message_that_no_queue_takes_is_refused(self, bus: Bus) -> None:
        with pytest.raises(BusUnavailable):
            bus.publish("nowhere", b"1")

    def test_a_stage_gets_its_own_messages_only(self, bus: Bus, other: Bus) -> None:
        bus.publish("convert", b"1")
        bus.publish("publish", b"2")
        assert_silent(other, "fetch")
        assert received(other, "publish").body == b"2"
        assert received(bus, "fetch", "convert").body == b"1"

    def test_waiting_ends(self, bus: Bus) -> None:
        assert bus.receive(STAGES, 0.0) is None
        assert_silent(bus)

    # a message is in the hands of one receiver at a time

    def test_what_one_has_no_other_gets(self, bus: Bus, other: Bus) -> None:
        bus.publish("fetch", b"1")
        delivery = received(bus)
        assert_silent(other)
        delivery.acknowledge()

    def test_racing_receivers_share_the_messages(self, bus: Bus, connect: Connect) -> None:
        messages = [str(number).encode() for number in range(60)]
        missing = threading.Semaphore(0)
        got: Counter[bytes] = Counter()

        def work(client: Bus) -> None:
            while not all_done.is_set():
                if delivery := client.receive(STAGES, _SILENCE_S):
                    got[delivery.body] += 1
                    delivery.acknowledge()
                    missing.release()
            client.close()

        all_done = threading.Event()
        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(work, connect()) for _ in range(4)]
            for number, message in enumerate(messages):
                bus.publish(STAGES[number % len(STAGES)], message)
            came = [missing.acquire(timeout=_PATIENCE_S) for _ in messages]
            all_done.set()
            for worker in workers:
                worker.result()
        assert all(came)
        assert got == Counter(messages)

    # a message stays with the bus until its delivery is settled

    @pytest.mark.parametrize("way", ["closed", "lost"])
    def test_what_a_gone_receiver_had_comes_again(self, bus: Bus, other: Bus, way: str) -> None:
        bus.publish("fetch", b"1")
        received(bus).retry(0.0)
        assert received(bus).attempt == 2
        if way == "closed":
            bus.close()
        else:
            self.lose(bus)
        delivery = received(other)
        assert (delivery.stage, delivery.body, delivery.attempt) == ("fetch", b"1", 2)
        delivery.acknowledge()

    @settlements
    def test_a_gone_receiver_settles_nothing(self, bus: Bus, other: Bus, settle: Settle) -> None:
        bus.publish("fetch", b"1")
        delivery = received(bus)
        bus.close()
        with pytest.raises(BusUnavailable):
            settle(delivery)
        received(other).acknowledge()
        assert not other.dead_letters()
        assert_silent(other)

    def test_what_is_acknowledged_is_gone(self, bus: Bus, other: Bus) -> None:
        bus.publish("fetch", b"1")
        received(bus).acknowledge()
        bus.close()
        assert_silent(other)

    # a delivery is settled exactly once

    @settlements
    @pytest.mark.parametrize("again", SETTLEMENTS.values(), ids=SETTLEMENTS.keys())
    def test_settled_once(self, bus: Bus, other: Bus, settle: Settle, again: Settle) -> None:
        bus.publish("fetch", b"1")
        delivery = received(bus)
        settle(delivery)
        with pytest.raises(RuntimeError):
            again(delivery)
        buried = len(other.dead_letters())
        if settle in (SETTLEMENTS["retry"], SETTLEMENTS["postpone"]):
            assert buried == 0
            received(other).acknowledge()
        else:
            assert buried == (settle is SETTLEMENTS["dead_letter"])
            assert_silent(other)

    def test_each_retry_is_the_next_attempt(self, bus: Bus, other: Bus) -> None:
        bus.publish("convert", b"1")
        for attempt in (1, 2, 3):
            delivery = received(bus)
            assert (delivery.stage, delivery.body, delivery.attempt) == ("convert", b"1", attempt)
            delivery.retry(0.0)
        assert received(other).attempt == 4

    def test_postponed_is_no_attempt(self, bus: Bus, other: Bus) -> None:
        bus.publish("convert", b"1")
        received(bus).retry(0.0)
        received(bus).postpone(0.0)
        delivery = received(other)
        assert (delivery.stage, delivery.body, delivery.attempt) == ("convert", b"1", 2)

    @pytest.mark.parametrize("settle", ["retry", "postpone"])
    def test_not_before_the_delay_is_over(self, bus: Bus, other: Bus, settle: str) -> None:
        bus.publish("fetch", b"1")
        delivery = received(bus)
        before_s = time.monotonic()
        getattr(delivery, settle)(_DELAY_S)
        received(other).acknowledge()
        assert time.monotonic() - before_s >= _DELAY_S

    def test_a_long_delay_keeps_nobody_else_waiting(self, bus: Bus, other: Bus) -> None:
        bus.publish("fetch", b"patient")
        received(bus).retry(3600.0)
        bus.publish("fetch", b"hasty")
        received(bus).retry(_DELAY_S)
        bus.publish("fetch", b"new")
        assert {received(bus).body, received(other).body} == {b"hasty", b"new"}

    def test_a_delayed_message_outlives_its_receiver(self, bus: Bus, other: Bus) -> None:
        bus.publish("fetch", b"1")
        received(bus).retry(_DELAY_S)
        self.lose(bus)
        assert received(other).attempt == 2

    # dead letters keep the message and the reason, and are never lost

    def test_dead_letters_are_kept(self, bus: Bus, other: Bus) -> None:
        letters = [
            DeadLetter("fetch", b"1", '{"code": "corrupt-checkpoint"}'),
            DeadLetter("convert", b"2", "größer"),
            DeadLetter("fetch", b"1", ""),
        ]
        for letter in letters:
            bus.publish(letter.stage, letter.body)
            received(bus).dead_letter(letter.reason)
        assert list(bus.dead_letters()) == letters
        bus.close()
        assert_silent(other)
        for _ in range(2):
            assert list(other.dead_letters()) == letters

    def test_dead_letters_are_sent_again(self, bus: Bus, other: Bus) -> None:
        for body in (b"1", b"2", b"3"):
            bus.publish("convert", body)
            received(bus).retry(0.0)
            received(bus).dead_letter("reason")
        first, second, third = bus.dead_letters()
        assert bus.redrive([second.id, "none such"]) == 1
        assert list(other.dead_letters()) == [first, third]
        delivery = received(other)
        assert (delivery.stage, delivery.body, delivery.attempt) == ("convert", b"2", 1)
        delivery.acknowledge()
        assert_silent(bus)
