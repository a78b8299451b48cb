"""Leases: who is working on an action, so that two hosts don't do the same work at once.

A lease is a numbered object made by a conditional put and renewed by a heartbeat. Losing one costs
nothing but work done twice: correctness rests on write-once blobs and keys, not on leases.

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
"""How long a lease is valid after its last renewal; it is renewed three times as often."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of an action; ``deaths`` is how many who held it before ended without a word."""

    action: str
    key: str
    deaths: int


def claim(store: Store, clock: Clock, action: str, owner: str) -> Lease | None:
    """Take the lease of an action; None where somebody else holds a valid one."""
    numbers = [_number(key) for key in store.keys(f"leases/{action}/")]
    latest = max(numbers, default=0)
    if latest:
        try:
            holder = json.loads(store.get(_key(action, latest)))
        except DocumentNotFound:
            holder = {"owner": "", "until_s": 0.0}
        if holder["owner"] != owner and holder["until_s"] > clock.now_s():
            return None
    key = _key(action, latest + 1)
    if not store.create(key, _document(clock, owner)):
        return None
    return Lease(action, key, len(numbers))


def forget_deaths(store: Store, lease: Lease) -> None:
    """Remove what others left behind; the lease itself stays."""
    for key in list(store.keys(f"leases/{lease.action}/")):
        if key != lease.key:
            store.delete(key)


@contextmanager
def held(store: Store, clock: Clock, lease: Lease, owner: str) -> Iterator[None]:
    """Renew the lease in the background while the block runs, then give it back."""
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(LIFETIME_S / 3):
            try:
                store.put(lease.key, _document(clock, owner))
            except CorepressError:
                continue  # the next beat tries again, and losing the lease is harmless

    heartbeat = threading.Thread(target=renew, name="lease-heartbeat", daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stop.set()
        heartbeat.join()
        with suppress(CorepressError):  # it expires
            store.delete(lease.key)


def _document(clock: Clock, owner: str) -> bytes:
    return canonical_json({"owner": owner, "until_s": clock.now_s() + LIFETIME_S})


def _key(action: str, number: int) -> str:
    return f"leases/{action}/{number:08d}.json"


def _number(key: str) -> int:
    return int(key.rsplit("/", 1)[1].removesuffix(".json"))
