"""Which stages have a worker: each says so in the store for as long as it is there."""

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
"""How long a worker that was killed seems to be there."""

_FOLDER = "workers/"


@contextmanager
def present(store: Store, clock: Clock, worker: str, stages: Collection[str]) -> Iterator[None]:
    """While the block runs, a worker of these stages is there."""
    over = threading.Event()
    key = f"{_FOLDER}{worker}.json"

    def tell() -> None:
        while True:
            document = {"stages": sorted(stages), "until_s": clock.now_s() + LIFETIME_S}
            with suppress(CorepressError):  # the store may answer next time
                store.put(key, canonical_json(document))
            if over.wait(LIFETIME_S / 3):
                return

    telling = threading.Thread(target=tell, name="presence", daemon=True)
    telling.start()
    try:
        yield
    finally:
        over.set()
        telling.join()
        with suppress(CorepressError):  # it expires
            store.delete(key)


def stages_with_workers(store: Store, clock: Clock) -> set[str]:
    """The stages that somebody works on; what was left by the dead is removed."""
    found: set[str] = set()
    for key in list(store.keys(_FOLDER)):
        try:
            document = json.loads(store.get(key))
        except DocumentNotFound:
            continue
        if document["until_s"] > clock.now_s():
            found.update(document["stages"])
        else:
            store.delete(key)
    return found
