"""A step that takes longer than a broker waits for an acknowledgement."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from runtime_support import QUICK, Machine, stage_process
from synthetic_stages import STAGES

from corepress.adapters.rabbitmq import setup
from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.topology import topology
from corepress.domain.errors import CorepressError
from corepress.runtime import jobs
from corepress.runtime.service import keep_at

sys.path.append(str(Path(__file__).parents[1] / "servers"))

from rabbitmq import Rabbitmq

IMPATIENT = "consumer_timeout = 1000\n"
WATCHFUL = "[{rabbit, [{channel_tick_interval, 500}]}]."
"""It looks every minute otherwise."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """The address of one that takes a delivery back after a second or two."""
    node = Rabbitmq(tmp_path / "node", IMPATIENT)
    (tmp_path / "node" / "advanced.config").write_text(WATCHFUL)
    node.start()
    link = Link(node.url, "tests")
    setup.apply(link, topology(STAGES))
    link.close()
    yield node.url
    node.stop()


def test_the_step_goes_on_and_is_done_once(broker: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, runner=None)  # type: ignore[arg-type]
    over = threading.Event()
    troubles: list[str] = []

    def trouble(error: CorepressError, _pause_s: float) -> None:
        troubles.append(error.message)

    def work(name: str) -> None:
        policy = replace(QUICK, lease_delay_s=1.0)
        with stage_process(tmp_path, name) as process:
            keep_at(
                lambda: RabbitBus(broker, name),
                lambda bus: machine.worker(bus=bus, runner=process, policy=policy),
                over,
                trouble,
            )

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(work, name) for name in ("one", "two")]
        job = machine.submit(bus=RabbitBus(broker), fetch=["dawdle"])
        deadline_s = time.monotonic() + 60
        while (result := jobs.result(machine.store, job)) is None:
            assert time.monotonic() < deadline_s, troubles
            time.sleep(0.05)
        over.set()
        for each in working:
            each.result()
    assert result.errors == {}
    assert machine.script(job).runs("fetch") == 1
    assert any("taken the delivery back" in message for message in troubles)
    assert not RabbitBus(broker).dead_letters()
