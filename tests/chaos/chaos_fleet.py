"""A fleet of this machine to which everything happens that may happen to one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "integration"))

import mixed_stages
import pika
import poison
import psutil
from bad_lines import BadBrokerLine, BadStoreLine, Drawn
from disturber import Disturber
from fleet_local import BUCKET, LocalFleet
from nursery import Child, Nursery
from pika.exceptions import AMQPError
from poison import Poison

from corepress.adapters.rabbitmq.topology import (
    DEAD,
    DELAYS_S,
    JOBS,
    WORK,
    delay_exchange,
    queue_of,
)
from corepress.adapters.s3.client import S3Location
from corepress.adapters.s3.store import S3Store
from corepress.ports.bus import GIVEN_UP, INTAKE
from corepress_intake.request import decode_request

TESTS = Path(__file__).parents[1]
LEASE_S = 3.0
STEP_S = 600.0
"""How far a clock is set wrong: less than what an S3 server refuses."""
STAGES = (INTAKE, *mixed_stages.NAMES)
_PREFIX = "fleet"
_DISK_BYTES = 24 << 20
_BLOCK_BYTES = 4096
_TEND_EVERY_S = 0.1
_QUIET_S = 2.0
_STOP_S = 60.0
_DID_NOT_STOP = 1


@dataclass
class Host:
    """A place where a worker is kept at work: whoever dies there is replaced at once.

    Attributes:
        orders: the folder of its worker's orders.
        ends: exit statuses of all that ended there; those of a kill are negative.
    """

    name: str
    stages: Sequence[str]
    orders: Path
    environment: dict[str, str] = field(repr=False)
    worker: Child | None = None
    ends: list[int] = field(default_factory=list)


class ChaosFleet:
    """Broker and store behind bad lines, hosts with workers, and what is done to them.

    Args:
        folder: for all they keep; it must be new.
        seed: of everything that is drawn.

    Attributes:
        did: what was done to the fleet, and how often.
        store_faults: what the line to the store does.
        jobs: the names of the jobs that must be done.
        poison: what must be a dead letter, and nothing else.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.did: Counter[str] = Counter()
        self.jobs: dict[str, str] = {}
        self.poison: list[Poison] = []
        self.store_faults = Drawn(seed)
        self._drawn = random.Random(seed)
        self._seed = seed
        self._stack = ExitStack()
        self._hosts: list[Host] = []
        self._tending: threading.Thread | None = None
        self._over = threading.Event()
        self._channel: Any = None

    def __enter__(self) -> Self:
        with self._stack:
            for name in ("sources", "orders", "disk", "logs"):
                (self.folder / name).mkdir(parents=True)
            self._fleet = self._stack.enter_context(LocalFleet(self.folder / "local", self.folder))
            self._store_endpoint = self._fleet.environment["AWS_ENDPOINT_URL"]
            self.store_line = self._stack.enter_context(
                BadStoreLine(self._store_endpoint, self.store_faults)
            )
            address = urlsplit(self.broker_url)
            assert address.hostname is not None
            assert address.port is not None
            self.broker_line = self._stack.enter_context(
                BadBrokerLine((address.hostname, address.port))
            )
            mixed_stages.declare(self.folder / "stages", version("corepress"))
            self._mount_disk()
            self.disturber = Disturber(self.broker_url, STAGES, self._seed)
            self._stack.callback(self.disturber.stop)
            self._nursery = Nursery(self._environment(), self.folder / "logs" / "nursery")
            self._stack.callback(self._nursery.stop)
            self._stack.callback(self.stop_hosts)
            for key, value in self._fleet.environment.items():
                if key.startswith("AWS_"):
                    os.environ[key] = value
            os.environ["AWS_ENDPOINT_URL"] = self._store_endpoint
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def broker_url(self) -> str:
        """The broker's own address."""
        return self._fleet.broker.url

    def open_store(self) -> S3Store:
        """The store, over a line that can be trusted."""
        location = S3Location(BUCKET, f"{_PREFIX}/", endpoint=self._store_endpoint)
        return S3Store(location, self.folder / "cache")

    def add_host(self, name: str, *stages: str, state: Path | None = None) -> Host:
        """Keep a worker of these stages at work.

        Args:
            name: of the host.
            stages: of the worker.
            state: its disk, where that is not everybody's.
        """
        orders = self.folder / "orders" / name
        orders.mkdir()
        own = {"COREPRESS_STATE": str(state or self.folder / "state"), "CHAOS_ORDERS": str(orders)}
        host = Host(name, stages, orders, self._environment() | own)
        self._hosts.append(host)
        return host

    def start_hosts(self) -> None:
        """Have workers on all hosts, from now on."""
        self._over.clear()
        for host in self._hosts:
            self._start(host)
        self._tending = threading.Thread(target=self._tend, daemon=True)
        self._tending.start()

    def stop_hosts(self) -> None:
        """Stop all workers as a service manager does."""
        if self._tending is None:
            return
        self._over.set()
        self._tending.join()
        self._tending = None
        working = [(host, host.worker) for host in self._hosts if host.worker is not None]
        for _, worker in working:
            worker.signal(signal.SIGTERM)
        for host, worker in working:
            status = worker.wait(_STOP_S)
            if status is None:
                worker.signal(signal.SIGKILL)
                status = _DID_NOT_STOP
            if status:
                host.ends.append(status)

    # what users do

    def submit(self, number: int | str, **deeds: list[str]) -> str:
        """Ask for a weightless job; returns its name."""
        script = {step.replace("_", "-", 1): deed for step, deed in deeds.items()}
        script["journal"] = str(self.folder / "sources" / f"{number}.journal")  # type: ignore[assignment]
        path = self.folder / "sources" / f"{number}{mixed_stages.SUFFIX}"
        path.write_text(json.dumps(script))
        components = (
            ["text_encoder", "unet"]
            if isinstance(number, int) and number % 5 == 0
            else ["text_encoder"]
        )
        return self.ask(path, f"weightless-{number}", components)

    def ask(self, source: Path, name: str, components: Sequence[str], **options: Any) -> str:
        """Ask for a job that must be done; returns its name."""
        recipe = {"name": "small", "components": list(components)}
        document = {"source": str(source), "recipes": [recipe], "name": name, **options}
        body = json.dumps(document).encode()
        self.send(JOBS, "", body)
        job = decode_request(body).job
        self.jobs[job] = name
        return job

    def plant_poison(self, number: str, kind: str) -> None:
        """Ask for a job that cannot be done."""
        step, deed = poison.SCRIPTS[kind]
        job = self.submit(number, **{step.replace("-", "_"): [deed] * 99})
        del self.jobs[job]
        self.poison.append(Poison(step.partition("-")[0], job))

    def plant_bad_messages(self) -> None:
        """Send what means nothing."""
        for exchange, stage, body in (
            (JOBS, INTAKE, poison.NOT_JSON),
            (JOBS, INTAKE, poison.WRONG_FIELD),
            (WORK, "convert", poison.NO_WORK),
        ):
            self.send(exchange, stage, body)
            self.poison.append(Poison(stage, body.decode()))

    def send(self, exchange: str, key: str, body: bytes) -> None:
        """Send a message to a broker that may be away for the moment."""
        while True:
            try:
                if self._channel is None or not self._channel.is_open:
                    connection = pika.BlockingConnection(pika.URLParameters(self.broker_url))
                    self._channel = connection.channel()
                    self._channel.confirm_delivery()
                self._channel.basic_publish(
                    exchange, key, body, pika.BasicProperties(delivery_mode=2), mandatory=True
                )
            except (AMQPError, OSError):
                self._channel = None
                time.sleep(0.2)
            else:
                return

    # what happens to them

    def kill_worker(self) -> None:
        """Kill a worker, whatever it is at."""
        host = self._drawn.choice(self._hosts)
        if host.worker is not None and host.worker.poll() is None:
            host.worker.signal(signal.SIGKILL)
            self.did["worker killed"] += 1

    def order(self, host: Host, step: str) -> Path:
        """Have the next worker of a host that comes to a step die there; gone when it did."""
        path = host.orders / step
        path.touch()
        return path

    def kill_broker(self) -> None:
        """Kill the broker, and start it again."""
        self._fleet.broker.kill()
        time.sleep(0.5)
        self._fleet.broker.start()
        self.did["broker killed"] += 1

    def cut_connections(self) -> None:
        """Reset all of the workers' connections to the broker."""
        if self.broker_line.cut():
            self.did["connections cut"] += 1

    def fill_disk(self) -> None:
        """Leave no byte on the small disk."""
        disk = self.folder / "disk"
        assert disk.is_mount()
        with suppress(OSError), (disk / "ballast").open("ab", buffering=0) as file:
            for _ in range(_DISK_BYTES // _BLOCK_BYTES):
                file.write(bytes(_BLOCK_BYTES))

    def free_disk(self) -> None:
        """Give the disk its room back."""
        (self.folder / "disk" / "ballast").unlink(missing_ok=True)

    def set_clock(self, host: Host, ahead_s: float) -> None:
        """Set the clock of a host, which must have been given one."""
        path = host.orders / "clock"
        part = path.with_suffix(".part")
        part.write_text(str(ahead_s))
        part.replace(path)

    def log_of(self, host: Host) -> str:
        """All that the workers of a host have said."""
        return (self.folder / "logs" / host.name).read_text(errors="replace")

    def calm(self) -> None:
        """Let nothing more happen."""
        self.store_faults.rate = 0.0
        self.disturber.stop()

    # what becomes of it

    def waiting(self) -> Counter[str]:
        """How many messages wait in queues, those of dead letters left out."""
        connection = pika.BlockingConnection(pika.URLParameters(self.broker_url))
        channel = connection.channel()
        names = [queue_of(stage) for stage in (*STAGES, "compile", GIVEN_UP)]
        names += [delay_exchange(delay_s) for delay_s in DELAYS_S]
        assert DEAD not in names
        found = Counter(
            {name: channel.queue_declare(name, passive=True).method.message_count for name in names}
        )
        connection.close()
        return +found

    def settle(self, patience_s: float) -> Counter[str]:
        """Let the fleet come to rest, then stop all workers.

        Returns:
            what waits in queues all the same; what was in somebody's hands is among it.
        """
        deadline_s = time.monotonic() + patience_s
        while True:
            quiet_since_s = time.monotonic()
            while time.monotonic() < min(deadline_s, quiet_since_s + _QUIET_S):
                if self.waiting():
                    quiet_since_s = time.monotonic()
                time.sleep(0.3)
            self.stop_hosts()
            left = self.waiting()
            if not left or time.monotonic() > deadline_s:
                return left
            self.start_hosts()

    def processes_left(self) -> list[str]:
        """The workers, and what they started, that are still there when a moment has passed."""
        deadline_s = time.monotonic() + _STOP_S
        while (left := self._family()) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        return left

    def _family(self) -> list[str]:
        # a worker is a fork, whose environment /proc does not tell; what it started is none
        ours = f"CHAOS_ORDERS={self.folder}".encode()
        forks = set(psutil.Process(self._nursery.pid).children())
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                environment = Path(f"/proc/{process.pid}/environ").read_bytes()
                if process in forks or ours in environment:
                    found.append(" ".join(process.cmdline()))
        return found

    @property
    def unexpected_ends(self) -> list[str]:
        """Workers that ended by themselves."""
        return [
            f"{host.name}: {status}"
            for host in self._hosts
            for status in host.ends
            if status != -signal.SIGKILL
        ]

    @property
    def deaths(self) -> int:
        """How many workers were killed, in any way."""
        return sum(status == -signal.SIGKILL for host in self._hosts for status in host.ends)

    def _start(self, host: Host) -> None:
        host.worker = self._nursery.start(
            ["worker", *host.stages], host.environment, self.folder / "logs" / host.name
        )

    def _tend(self) -> None:
        while not self._over.wait(_TEND_EVERY_S):
            for host in self._hosts:
                if host.worker is not None and (status := host.worker.poll()) is not None:
                    host.ends.append(status)
                    self._start(host)

    def _environment(self) -> dict[str, str]:
        """Of workers, who know nothing but the bad lines."""
        paths = (self.folder / "stages", TESTS / "chaos", TESTS / "integration")
        environment = {
            **os.environ,
            **self._fleet.environment,
            "COREPRESS_BUS": self._line_url(),
            "AWS_ENDPOINT_URL": self.store_line.endpoint,
            "COREPRESS_LEASE_S": str(LEASE_S),
            "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # so many begin, and compile everything
        return environment

    def _line_url(self) -> str:
        address = urlsplit(self.broker_url)
        return self.broker_url.replace(f":{address.port}/", f":{self.broker_line.port}/")

    def _mount_disk(self) -> None:
        """Mount a small disk of its own."""
        disk = str(self.folder / "disk")
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        options = f"size={_DISK_BYTES},mode=1777"
        subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
        self._stack.callback(subprocess.run, [*as_root, "umount", "--lazy", disk], check=True)
