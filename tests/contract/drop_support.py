"""A drop folder on the S3 server, and workers that die when they are told to."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

from rabbitmq_server import bus_url

from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.adapters.s3.client import S3Location
from corepress.adapters.s3.objects import S3Objects
from corepress.adapters.s3.store import S3Store
from corepress.ports.bus import INTAKE, Bus
from corepress.ports.clock import SystemClock
from corepress_intake.drop_folder import DropFolder
from corepress_intake.request import Submission, decode_request

KILLED = 9
_PRELOADED = [
    "pytest",
    "corepress.adapters.rabbitmq.setup",
    "corepress.adapters.s3.store",
    "corepress_intake.drop_folder",
]
"""What the processes that die import is imported once."""


class Folder:
    """A store whose drop folder people put files into."""

    def __init__(self, location: S3Location) -> None:
        self.location = location
        self.store = S3Store(location, Path("/nowhere"))
        self.address = f"s3://{location.bucket}/{location.prefix}"
        self.reports: list[tuple[str, str]] = []

    def drop(self, name: str, data: bytes | str) -> None:
        """Put an object into the drop folder."""
        self.store.put(f"drop/{name}", data.encode() if isinstance(data, str) else data)

    def worker(self, bus: Bus, patience_s: float = 60.0) -> DropFolder:
        """What looks into the folder."""
        return DropFolder(
            S3Objects(self.location),
            self.store,
            bus,
            SystemClock(),
            None,
            lambda name, what: self.reports.append((name, what)),
            patience_s,
        )

    def listing(self) -> list[str]:
        """All objects of the bucket."""
        return list(self.store.keys(""))


def received(bus: Bus) -> list[Submission]:
    """What intake was sent; nothing of it is left."""
    found = []
    while delivery := bus.receive([INTAKE], 0.1):
        found.append(decode_request(delivery.body))
        delivery.acknowledge()
    return found


class _Mortal:
    """Anything, in the hands of a process that is killed at one of its calls."""

    def __init__(self, mortal: Any, tick: Callable[[], None]) -> None:
        self._mortal = mortal
        self._tick = tick

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._mortal, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self._tick()
            return found(*arguments, **named)

        return call


def killed_at(location: S3Location, call: int) -> bool:
    """Look into the folder once, in a process that dies before this call; whether it came to it."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=_poll, args=(location, bus_url(), call))
    process.start()
    process.join()
    assert process.exitcode in (0, KILLED)
    return process.exitcode == KILLED


def _poll(location: S3Location, url: str, call: int) -> None:
    calls = iter(range(call + 1))

    def tick() -> None:
        if next(calls) == call:
            os._exit(KILLED)

    def mortal(each: Any) -> Any:
        return cast("Any", _Mortal(each, tick))

    store = S3Store(location, Path("/nowhere"))
    bus = RabbitBus(url)
    DropFolder(
        mortal(S3Objects(location)),
        mortal(store),
        mortal(bus),
        SystemClock(),
        None,
        lambda *_: None,
    ).poll()
    bus.close()
