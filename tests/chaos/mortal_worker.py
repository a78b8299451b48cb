"""``corepress worker``, which dies at a step of a delivery, and whose clock is set, as ordered.

Orders are files in the folder ``$CHAOS_ORDERS``. One is named after a step: whichever worker comes
to that step first takes it, and is gone the same moment, by SIGKILL. The file ``clock`` tells how
many seconds the clock is ahead.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import time_machine
from named_steps import DELETES, WRITES

import corepress.connections
import corepress.fleet
from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.adapters.s3.store import S3Store
from corepress.cli.main import main
from corepress.domain.stage import Task
from corepress.runtime.stage_process import StageProcess
from corepress.runtime.worker import ProgressCallback, Run

_LOOK_AT_CLOCK_EVERY_S = 0.2


def come_to(step: str) -> None:
    """Die, if that was ordered."""
    with suppress(FileNotFoundError):
        _order(step).unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def come_to_key(steps: dict[str, str], key: str) -> None:
    """Die, if that was ordered for what is done to a document."""
    for step, pattern in steps.items():
        if re.match(pattern, key):
            come_to(step)


def _order(name: str) -> Path:
    return Path(os.environ["CHAOS_ORDERS"], name)


def _set_clock() -> None:
    """Have this process's clock as far ahead as ordered, also when that changes."""
    ahead_s = 0.0
    with time_machine.travel(time.time(), tick=True) as clock:
        while True:
            with suppress(FileNotFoundError, ValueError):  # half-written
                wanted_s = float(_order("clock").read_text())
                clock.shift(wanted_s - ahead_s)
                ahead_s = wanted_s
            time.sleep(_LOOK_AT_CLOCK_EVERY_S)


class MortalStore(S3Store):
    """The store of somebody who may die before writing."""

    def put(self, key: str, data: bytes) -> None:
        come_to_key(WRITES, key)
        super().put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        come_to_key(WRITES, key)
        return super().create(key, data)

    def delete(self, key: str) -> None:
        come_to_key(DELETES, key)
        super().delete(key)


class MortalBus(RabbitBus):
    """The bus of somebody who may die before sending, and before and after settling."""

    def publish(self, stage: str, body: bytes, priority: int = 0) -> None:
        come_to("publish what follows")
        super().publish(stage, body, priority)

    def receive(self, *arguments: Any) -> Any:
        delivery = super().receive(*arguments)
        if delivery is not None:
            come_to("receive")
        return delivery

    def announce(self, topic: str, body: bytes) -> None:
        if topic.startswith("job.finished"):
            come_to("tell the end")
        super().announce(topic, body)

    def acknowledge(self, message: Any) -> None:
        come_to("settle")
        super().acknowledge(message)
        come_to("settled")


class MortalProcess(StageProcess):
    """The stage's process of somebody who may die before and after a run."""

    def run(self, task: Task, progress: ProgressCallback) -> Run:
        come_to("run")
        outcome = super().run(task, progress)
        come_to("end the run")
        return outcome


def live(arguments: list[str]) -> None:
    """Be a worker: ``worker STAGE...``."""
    corepress.connections.S3Store = MortalStore  # type: ignore[misc]
    corepress.connections.RabbitBus = MortalBus  # type: ignore[misc]
    corepress.fleet.StageProcess = MortalProcess  # type: ignore[misc]
    if _order("clock").exists():
        threading.Thread(target=_set_clock, daemon=True).start()
    main(arguments)
