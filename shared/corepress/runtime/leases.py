"""Leases: who is working on an action, so that two hosts don't do the same work at once.

A lease is a numbered object made by a conditional put and renewed by a heartbeat. Losing one costs
nothing but work done twice: correctness rests on write-once blobs and keys, not on leases.

A lease has run out when either the time that its holder wrote down has come, or it was not renewed
for so long by the store's clock: a holder whose own clock was ahead would otherwise keep others
away for as long as that, once it is dead.

Whoever gives an action up, well or not, deletes its lease; what is left behind tells how many died
while they worked on it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from corepress.domain.artifact import canonical_json
from corepress.domain.errors import CorepressError
from corepress.ports.clock import Clock
from corepress.ports.store import DocumentNotFound, Store

LIFETIME_S = 60.0
"""How long a lease is valid after its last renewal, where nothing else is said; it is renewed three
times as often."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of an action; ``deaths`` is how many who held it before ended without a word."""

    action: str
    key: str
    owner: str
    lifetime_s: float
    deaths: int

    def document(self, clock: Clock) -> bytes:
        """The lease as it is written from now on."""
        until_s = clock.now_s() + self.lifetime_s
        return canonical_json(
            {"owner": self.owner, "until_s": until_s, "lifetime_s": self.lifetime_s}
        )


def claim(
    store: Store, clock: Clock, action: str, owner: str, lifetime_s: float | None = None
) -> Lease | None:
    """Take the lease of an action; None where somebody else holds a valid one."""
    lifetime_s = LIFETIME_S if lifetime_s is None else lifetime_s
    first = Lease(action, _key(action, 1), owner, lifetime_s, 0)
    if store.create(first.key, first.document(clock)):
        return first
    numbers = [_number(key) for key in store.keys(f"leases/{action}/")]
    latest = max(numbers, default=0)
    if latest and _is_others(store, clock, _key(action, latest), owner):
        return None
    lease = Lease(action, _key(action, latest + 1), owner, lifetime_s, len(numbers))
    return lease if store.create(lease.key, lease.document(clock)) else None


def _is_others(store: Store, clock: Clock, key: str, owner: str) -> bool:
    """Whether a lease is valid, and somebody else's."""
    try:
        holder = json.loads(store.get(key))
        is_due = holder["until_s"] <= clock.now_s() or store.age_s(key) > holder["lifetime_s"]
    except DocumentNotFound:  # it was given back
        return False
    return holder["owner"] != owner and not is_due


def forget_deaths(store: Store, lease: Lease) -> None:
    """Remove what others left behind; the lease itself stays."""
    for key in list(store.keys(f"leases/{lease.action}/")):
        if key != lease.key:
            store.delete(key)


@contextmanager
def held(store: Store, clock: Clock, lease: Lease) -> Iterator[None]:
    """Renew the lease in the background while the block runs, then give it back.

    One that has run out meanwhile stays while another has taken it over, of whose lease it would
    hide the number.
    """
    stop = threading.Event()
    valid_until_s = clock.monotonic_s() + lease.lifetime_s

    def renew() -> None:
        nonlocal valid_until_s
        while not stop.wait(lease.lifetime_s / 3):
            beat_s = clock.monotonic_s()
            try:
                store.put(lease.key, lease.document(clock))
            except CorepressError:
                continue  # the next beat tries again, and losing the lease is harmless
            valid_until_s = beat_s + lease.lifetime_s

    heartbeat = threading.Thread(target=renew, name="lease-heartbeat", daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stop.set()
        heartbeat.join()
        with suppress(CorepressError):  # it expires
            if clock.monotonic_s() < valid_until_s or _is_latest(store, lease):
                store.delete(lease.key)


def _is_latest(store: Store, lease: Lease) -> bool:
    return lease.key == max(store.keys(f"leases/{lease.action}/"), default=lease.key)


def _key(action: str, number: int) -> str:
    return f"leases/{action}/{number:08d}.json"


def _number(key: str) -> int:
    return int(key.rsplit("/", 1)[1].removesuffix(".json"))
