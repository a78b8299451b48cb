"""Workers keep at it, whatever bus and store do."""

from __future__ import annotations

import threading

import pytest

from corepress.adapters.embedded.bus import MemoryBroker, MemoryBus
from corepress.domain.errors import AccessDenied, BusUnavailable, CorepressError
from corepress.ports.bus import Bus
from corepress.ports.clock import SystemClock
from corepress.runtime import service
from corepress.runtime.service import keep_at


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_FIRST_PAUSE_S", 0.001)


class Scripted:
    """Clients of a bus whose deliveries are handled as a script says."""

    def __init__(self, *script: Exception | bool) -> None:
        self.script = list(script)
        self.stop = threading.Event()
        self.clients: list[MemoryBus] = []
        self.troubles: list[tuple[str, float]] = []

    def connect(self) -> Bus:
        self.clients.append(MemoryBus(MemoryBroker(("fetch",), SystemClock())))
        return self.clients[-1]

    def step(self, _timeout_s: float) -> bool:
        due = self.script.pop(0)
        if not self.script:
            self.stop.set()
        if isinstance(due, Exception):
            raise due
        return due

    def trouble(self, error: CorepressError, pause_s: float) -> None:
        self.troubles.append((error.code, pause_s))

    def run(self) -> None:
        keep_at(self.connect, lambda _: self, self.stop, self.trouble)

    def are_closed(self) -> bool:
        return all(map(_refuses, self.clients))


def _refuses(bus: Bus) -> bool:
    try:
        bus.receive(("fetch",), 0.0)
    except BusUnavailable:
        return True
    return False


def test_after_every_failure_comes_another_client_and_a_longer_pause() -> None:
    away = BusUnavailable("away")
    worker = Scripted(away, away, KeyError("a bug"), True, away, True)
    worker.run()
    codes = ["bus-unavailable", "bus-unavailable", "internal-error", "bus-unavailable"]
    assert worker.troubles == list(zip(codes, [0.001, 0.002, 0.004, 0.001], strict=True))
    assert len(worker.clients) == 5
    assert worker.are_closed()


def test_what_never_worked_for_good_is_raised() -> None:
    worker = Scripted(BusUnavailable("away"), AccessDenied("who are you?"), True)
    with pytest.raises(AccessDenied):
        worker.run()
    assert worker.are_closed()


def test_what_worked_once_is_waited_for() -> None:
    worker = Scripted(True, AccessDenied("the broker is starting"), True)
    worker.run()
    assert worker.troubles == [("access-denied", 0.001)]


def test_told_to_stop_before_it_began() -> None:
    worker = Scripted(True)
    worker.stop.set()
    worker.run()
    assert worker.clients == []
