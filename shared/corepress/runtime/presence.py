"""Which stages have workers: a document in the store for each, renewed while the worker lives.

The broker can't tell: a worker that is busy subscribes to nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from corepress.domain.artifact import canonical_json
from corepress.domain.errors import CorepressError
from corepress.ports.clock import Clock
from corepress.ports.store import DocumentNotFound, Store

LIFETIME_S = 90.0
"""How long a worker counts as present after it was last seen; it shows three times as often."""


def is_present(store: Store, clock: Clock, stage: str) -> bool:
    """Whether some worker of a stage is there."""
    return any(_until_s(store, key) > clock.now_s() for key in store.keys(_folder(stage)))


@contextmanager
def present(store: Store, clock: Clock, owner: str, stages: Collection[str]) -> Iterator[None]:
    """Show that a worker of these stages is there, while the block runs."""
    over = threading.Event()
    keys = [f"{_folder(stage)}{owner}.json" for stage in stages]

    def show() -> None:
        while True:
            # while the store is away nobody can look either
            with suppress(CorepressError):
                document = canonical_json({"until_s": clock.now_s() + LIFETIME_S})
                for key in keys:
                    store.put(key, document)
            if over.wait(LIFETIME_S / 3):
                return

    with suppress(CorepressError):
        _forget_gone(store, clock, stages)
    heartbeat = threading.Thread(target=show, name="presence", daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        over.set()
        heartbeat.join()
        with suppress(CorepressError):  # it expires
            for key in keys:
                store.delete(key)


def _forget_gone(store: Store, clock: Clock, stages: Collection[str]) -> None:
    """Remove what workers left that were killed."""
    for stage in stages:
        for key in list(store.keys(_folder(stage))):
            if _until_s(store, key) < clock.now_s():
                store.delete(key)


def _until_s(store: Store, key: str) -> float:
    try:
        return float(json.loads(store.get(key))["until_s"])
    except DocumentNotFound:  # it has just left
        return 0.0


def _folder(stage: str) -> str:
    return f"workers/{stage}/"
