"""All that happens to a fleet, once in every round, in a drawn order."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import mixed_stages
from chaos_fleet import STEP_S, ChaosFleet, Host
from named_steps import STEPS

from corepress.ports.bus import INTAKE

_PATIENCE_S = 90.0
_BEGIN_EVERY_S = 3.0
_KILLS, _CUTS, _BROKER_KILLS = 2, 2, 1


class Schedule:
    """A fleet with a host of each kind, and what is done to them.

    Args:
        fleet: which has no hosts yet.
        seed: of the order.
        begin: begins another job.
    """

    def __init__(self, fleet: ChaosFleet, seed: int, begin: Callable[[], None]) -> None:
        self._fleet = fleet
        self._drawn = random.Random(seed)
        self._begin = begin
        light = (INTAKE, "fetch", "normalize", "publish")
        self._mortal = [
            fleet.add_host("mortal-1", *light),
            fleet.add_host("mortal-2", *light, "convert"),
        ]
        self._astray = fleet.add_host("astray", *mixed_stages.NAMES)
        self._cramped = fleet.add_host(
            "cramped", *mixed_stages.NAMES, state=fleet.folder / "disk" / "state"
        )
        fleet.set_clock(self._astray, 0.0)
        fleet.start_hosts()

    def round(self, work: Callable[[], bool], pause_s: float) -> None:
        """Let everything happen, as long as there is work that suffers.

        Args:
            work: is called before each misfortune; whether there is any.
            pause_s: between two misfortunes.
        """
        deeds: list[Callable[[], None]] = [
            *(lambda step=step: self._kill_before(self._mortal, step) for step in STEPS),
            *(self._fleet.kill_worker for _ in range(_KILLS)),
            *(self._fleet.cut_connections for _ in range(_CUTS)),
            *(self._fleet.kill_broker for _ in range(_BROKER_KILLS)),
            self._fill_disk,
            lambda: self._die_with_clock_at(STEP_S),
            lambda: self._die_with_clock_at(-STEP_S),
        ]
        self._drawn.shuffle(deeds)
        for deed in deeds:
            if not work():
                return
            deed()
            time.sleep(pause_s)

    def _kill_before(self, hosts: list[Host], step: str) -> None:
        """Kill a worker right before a step of a delivery."""
        orders = [self._fleet.order(host, step) for host in hosts]
        if self._comes_to_be(lambda: not all(order.exists() for order in orders)):
            self._fleet.did[f"worker killed before: {step}"] += 1
        for order in orders:
            order.unlink(missing_ok=True)

    def _die_with_clock_at(self, ahead_s: float) -> None:
        """Set a clock wrong, kill the worker while it holds a lease, and set the clock right."""
        self._fleet.set_clock(self._astray, ahead_s)
        time.sleep(1.0)
        order = self._fleet.order(self._astray, "commit")
        if self._comes_to_be(lambda: not order.exists()):
            self._fleet.did["clock set forward" if ahead_s > 0 else "clock set back"] += 1
        order.unlink(missing_ok=True)
        self._fleet.set_clock(self._astray, 0.0)

    def _fill_disk(self) -> None:
        """Fill a disk until a step has failed of it."""
        before = self._failures()
        self._fleet.fill_disk()
        if self._comes_to_be(lambda: self._failures() > before):
            self._fleet.did["disk full"] += 1
        self._fleet.free_disk()

    def _failures(self) -> int:
        return self._fleet.log_of(self._cramped).count("no space left")

    def _comes_to_be(self, is_so: Callable[[], bool]) -> bool:
        """Whether something comes to be so in time; a job that begins helps, now and then."""
        started_s = begun_s = time.monotonic()
        self._begin()
        while not is_so():
            now_s = time.monotonic()
            if now_s > started_s + _PATIENCE_S:
                return False
            if now_s > begun_s + _BEGIN_EVERY_S:
                self._begin()
                begun_s = now_s
            time.sleep(0.05)
        return True
