"""What a fleet adds to a step: hops of empty stages, with real workers, RabbitMQ and S3 server.

Usage: ``python tests/bench/bench_hops.py [JOBS]``. The workers are those of ``corepress worker``;
only the stages are others, which do nothing. Two figures:

- a hop when nothing else is to be done: from the moment a message is in its queue to when the next
  one is, which was published after the step was committed, and the confirmation that the worker
  waits for then;
- hops a second when much is to be done, by several workers.

Messages are observed on the broker, by a queue of our own that gets each of them as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import pika
import psutil
from fleet_local import LocalFleet
from pika.exceptions import AMQPConnectionError

from corepress.adapters.embedded.bus import MemoryBroker, MemoryBus
from corepress.adapters.rabbitmq.topology import WORK
from corepress.config import read_settings
from corepress.connections import open_bus, open_store
from corepress.domain.composition import CHECKPOINT
from corepress.domain.job import JobRequest
from corepress.domain.recipe import Recipe
from corepress.messages.work import Work
from corepress.ports.clock import SystemClock
from corepress.ports.store import Store
from corepress.runtime import job_events, jobs

STAGES = ("fetch", "normalize", "convert")
WORKERS = 4
ONE = Recipe("one", components=["unet"])
ALL = Recipe("all")
HOPS_OF_ALL = 6
"""fetch, normalize and four conversions."""
_ALONE = 60
_WARMING = 8
_TARGET_MS, _TARGET_PER_S = 30.0, 100.0
_PATIENCE_S = 300.0


class Observer:
    """Sees every message of work, and when it came into its queue."""

    def __init__(self, url: str) -> None:
        self.seen_s: dict[str, dict[str, float]] = defaultdict(dict)
        self._changed = threading.Condition()
        threading.Thread(target=self._observe, args=(url,), daemon=True).start()
        with self._changed:
            self._changed.wait(10)

    def wait_for(self, wanted: Sequence[str]) -> None:
        """Until these jobs wait for nothing but to be published."""
        deadline_s = time.monotonic() + _PATIENCE_S
        with self._changed:
            for job in wanted:
                while not any(node.startswith("publish-") for node in self.seen_s[job]):
                    self._changed.wait(1.0)
                    if time.monotonic() > deadline_s:
                        raise TimeoutError(f"{job} has come to {list(self.seen_s[job])}")

    def _observe(self, url: str) -> None:
        channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, WORK, "#")

        def keep(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
            now_s = time.perf_counter()
            work = json.loads(body)["data"]
            with self._changed:
                self.seen_s[work["job"]].setdefault(work["node"], now_s)
                self._changed.notify_all()

        channel.basic_consume(queue, keep, auto_ack=True)
        with self._changed:
            self._changed.notify_all()
        with contextlib.suppress(AMQPConnectionError):  # the broker is stopped in the end
            channel.start_consuming()


@contextmanager
def empty_stages(folder: Path) -> Iterator[None]:
    """Processes that are started meanwhile find the empty stages installed, and no others."""
    installed = folder / "corepress-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: corepress\nVersion: 0\n")
    points = [f"{stage} = empty_stages:{stage.upper()}\n" for stage in (*STAGES, "publish")]
    (installed / "entry_points.txt").write_text("[corepress.stages]\n" + "".join(points))
    before = os.environ.get("PYTHONPATH", "")
    ours = (str(folder), str(Path(__file__).parent), *filter(None, [before]))
    os.environ["PYTHONPATH"] = os.pathsep.join(ours)
    try:
        yield
    finally:
        os.environ["PYTHONPATH"] = before


def prepared(store: Store, names: Sequence[str], recipe: Recipe) -> list[bytes]:
    """Write jobs down; their first messages, which are not sent."""
    bus = MemoryBus(MemoryBroker((*STAGES, "publish"), SystemClock()))
    for name in names:
        with store.writer() as writer:
            writer.write(name.encode())
            blob = writer.commit()
        source = {"uri": f"file:///{name}", "blob": blob.document()}
        request = JobRequest(source["uri"], (recipe,), name)
        jobs.submit(store, bus, name, request, {CHECKPOINT: source})
    messages = []
    while delivery := bus.receive(["fetch"], 0.0):
        messages.append(delivery.body)
        delivery.acknowledge()
    return messages


def alone(store: Store, observer: Observer, confirm_ms: float, jobs_: int) -> None:
    """Hops of jobs that come one after another."""
    bus = open_bus(read_settings())
    taken_ms: dict[str, list[float]] = defaultdict(list)
    for number, message in enumerate(prepared(store, _names("alone", jobs_ + _WARMING), ONE)):
        job = Work.decode(message).job
        bus.publish("fetch", message)
        observer.wait_for([job])
        if number < _WARMING:
            continue
        seen = sorted(observer.seen_s[job].items(), key=lambda item: item[1])
        for (node, from_s), (_, to_s) in pairwise(seen):
            taken_ms[node.split("-")[0]].append((to_s - from_s) * 1000 + confirm_ms)
    bus.close()
    everything = [each for stage in taken_ms.values() for each in stage]
    print("| a hop alone | median, ms | of ten, nine below, ms |\n|---|---|---|")
    for stage, found in [*taken_ms.items(), ("all", everything)]:
        print(f"| {stage} | {median(found):.1f} | {quantiles(found, n=10)[-1]:.1f} |", flush=True)
    verdict("median of a hop", median(everything), _TARGET_MS, "ms", at_most=True)


def together(store: Store, observer: Observer, count: int) -> None:
    """Hops of jobs that all wait from the beginning."""
    names = _names("together", count)
    bus = open_bus(read_settings())
    messages = prepared(store, names, ALL)
    spent_s = processor_s()
    began_s = time.perf_counter()
    for message in messages:
        bus.publish("fetch", message)
    observer.wait_for(names)
    spent_s = {name: after_s - spent_s[name] for name, after_s in processor_s().items()}
    ended_s = max(max(observer.seen_s[name].values()) for name in names)
    bus.close()
    hops = HOPS_OF_ALL * count
    per_s = hops / (ended_s - began_s)
    print(f"{hops} hops in {ended_s - began_s:.1f} s: {per_s:.1f} a second, {WORKERS} workers")
    print("\n| | ms of a processor for a hop |\n|---|---|")
    for name, each_s in [*sorted(spent_s.items()), ("all", sum(spent_s.values()))]:
        print(f"| {name} | {each_s / hops * 1000:.1f} |")
    verdict("hops a second", per_s, _TARGET_PER_S, "", at_most=False)
    told = _told(store, names)
    print(f"events kept: {told} of {2 * hops}")


def processor_s() -> dict[str, float]:
    """The processor time that each kind of this fleet's processes has taken so far, in seconds."""
    found: dict[str, float] = defaultdict(float)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            name = process.name()
            if name.startswith("python"):
                is_worker = "worker" in process.cmdline()
                name = "workers" if is_worker else "stages' processes"
            times = process.cpu_times()
            found[name] += times.user + times.system
    return found


def verdict(what: str, found: float, limit: float, unit: str, at_most: bool) -> None:
    """Print whether a limit is kept."""
    kept = found <= limit if at_most else found >= limit
    side = "at most" if at_most else "at least"
    print(f"{what}: {found:.1f} {unit}, {side} {limit:.0f} {unit}: {'kept' if kept else 'MISSED'}")


def confirmation_ms(url: str) -> float:
    """What a worker waits for the confirmation of a message, median."""
    bus = open_bus(read_settings())
    taken_ms = []
    for _ in range(100):
        started_s = time.perf_counter()
        bus.publish("publish", b"{}")
        taken_ms.append((time.perf_counter() - started_s) * 1000)
    bus.close()
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        connection.channel().queue_purge(f"{WORK}.publish")
    return median(taken_ms)


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


def _told(store: Store, names: Sequence[str]) -> int:
    """The events of steps that the store has, once it has all or no more come."""
    found, before = -1, -2
    while found != before:
        time.sleep(3.0)
        before = found
        histories = [job_events.history(store, name) for name in names]
        found = sum(event.kind.startswith("step.") for each in histories for event in each)
    return found


def _environment(values: Mapping[str, str]) -> None:
    os.environ |= values


def main(count: int) -> None:
    """Print both figures."""
    with tempfile.TemporaryDirectory(prefix="corepress-bench-") as name:
        folder = Path(name)
        with empty_stages(folder / "stages"), LocalFleet(folder / "fleet") as fleet:
            _environment(fleet.environment)
            store = open_store(read_settings())
            confirm_ms = confirmation_ms(fleet.broker.url)
            observer = Observer(fleet.broker.url)
            for _ in range(WORKERS):
                fleet.add_worker(*STAGES)
            _warm(store, observer)
            alone(store, observer, confirm_ms, _ALONE)
            together(store, observer, count)


def _warm(store: Store, observer: Observer) -> None:
    """Have every worker run a step of every stage."""
    names = _names("warm", 4 * WORKERS)
    bus = open_bus(read_settings())
    for message in prepared(store, names, ALL):
        bus.publish("fetch", message)
    observer.wait_for(names)
    bus.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
