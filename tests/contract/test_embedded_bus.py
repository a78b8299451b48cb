"""The bus in memory keeps the contract of every bus."""

from __future__ import annotations

import pytest

from corepress.adapters.embedded.bus import MemoryBroker, MemoryBus
from corepress.ports.clock import SystemClock
from corepress.testing.bus_contract import STAGES, BusContract, Connect


class TestMemoryBus(BusContract):
    @pytest.fixture
    def connect(self) -> Connect:
        broker = MemoryBroker(STAGES, SystemClock())
        return lambda: MemoryBus(broker)
