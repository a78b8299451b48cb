"""A whole campaign: jobs are submitted, everything happens, and the outcome is looked at."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import poison
import tiny_models
from audit import Audit, audited
from bad_lines import FAULTS
from chaos_fleet import ChaosFleet
from named_steps import STEPS
from schedule import Schedule

from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.runtime import job_index

Say = Callable[[str], None]

MISFORTUNES = (
    *(f"worker killed before: {step}" for step in STEPS),
    *(f"store: {fault}" for fault in FAULTS),
    "worker killed",
    "connections cut",
    "broker killed",
    "disk full",
    "clock set forward",
    "clock set back",
    "message duplicated",
    "message reordered",
)
"""All that happens."""
_LOOK_EVERY_S = 1.0
_FEW = 20


@dataclass(frozen=True)
class Outcome:
    """What was asked for and done, and what became of it.

    Attributes:
        jobs: how many had to be done.
        poison: what was planted.
        did: how often each of `MISFORTUNES` happened.
        deaths: how many workers were killed, by us or by poison.
        unexpected_ends: workers that ended by themselves.
        processes_left: what workers started and is still there.
        audit: of store and broker.
        wall_s: from the first submission to the fleet's rest.
    """

    jobs: int
    poison: int
    did: Counter[str]
    deaths: int
    unexpected_ends: list[str]
    processes_left: list[str]
    audit: Audit
    wall_s: float


def wage(
    folder: Path,
    seed: int,
    weightless: int,
    real: int,
    poisoned: int,
    rate: float,
    pause_s: float,
    is_long: bool,
    patience_s: float,
    say: Say,
) -> Outcome:
    """Submit jobs to a fleet, and let everything happen to it.

    Each misfortune happens at least once: where jobs run out before, there are more.

    Args:
        folder: for all of it; it must be new.
        seed: of all that is drawn.
        weightless: how many jobs of no weight there are, at least.
        real: how many conversions of tiny checkpoints.
        poisoned: how many jobs of each kind of poison.
        rate: how many requests to the store fail.
        pause_s: between two misfortunes.
        is_long: whether they go on happening until hardly any jobs are left.
        patience_s: how long the end may take to come, once nothing more happens.
        say: is told how far it is.
    """
    with ChaosFleet(folder, seed) as fleet:
        started_s = time.monotonic()
        store = fleet.open_store()
        models = folder / "sources" / "real"
        models.mkdir()
        fleet.plant_bad_messages()
        for number in range(poisoned):
            for kind in poison.SCRIPTS:
                fleet.plant_poison(f"{kind}-{number}", kind)
        for number in range(real):
            path = tiny_models.write_tiny(models, number)
            fleet.ask(path, f"tiny-{number}", tiny_models.COMPONENTS, **tiny_models.OPTIONS)
        numbers = itertools.count()

        def begin(count: int = 1) -> None:
            for number in itertools.islice(numbers, count):
                fleet.submit(number)

        begin(weightless)
        schedule = Schedule(fleet, seed, begin)
        fleet.store_faults.rate = rate

        def left() -> int:
            ended = sum(entry.state != "running" for entry in job_index.load(store).values())
            return len(fleet.jobs) + len(poison.SCRIPTS) * poisoned - ended

        def keep_busy() -> bool:
            begin(_FEW if left() < _FEW else 0)
            return True

        schedule.round(keep_busy, pause_s)
        say(f"every misfortune has happened; {left()} jobs are left")
        while is_long and left() > _FEW:
            schedule.round(lambda: left() > _FEW, pause_s)
            say(f"{left()} jobs are left")
        fleet.calm()
        deadline_s = time.monotonic() + patience_s
        while left() > 0 and time.monotonic() < deadline_s:
            time.sleep(_LOOK_EVERY_S)
        waiting = fleet.settle(patience_s)
        wall_s = time.monotonic() - started_s
        say(f"at rest after {wall_s:.0f} s")
        bus = RabbitBus(fleet.broker_url)
        letters = bus.dead_letters()
        bus.close()
        audit = audited(store, letters, waiting, fleet.jobs, fleet.poison)
        did = fleet.did + Counter(
            {f"store: {fault}": count for fault, count in fleet.store_line.injected.items()}
            | {f"message {what}": count for what, count in fleet.disturber.did.items()}
        )
        return Outcome(
            len(fleet.jobs),
            len(fleet.poison),
            did,
            fleet.deaths,
            fleet.unexpected_ends,
            fleet.processes_left(),
            audit,
            wall_s,
        )
