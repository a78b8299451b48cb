"""``catalogue.json``: all entries of the catalogue on one page, derived from them."""

from __future__ import annotations

import json
from secrets import token_hex
from typing import Any

from corepress.domain.artifact import canonical_json
from corepress.domain.publication import SCHEMA, Publication
from corepress.ports.clock import Clock
from corepress.ports.store import DocumentNotFound, Store
from corepress.runtime import leases
from corepress.runtime.catalogue import ADAPTER, ENTRIES

PAGE = "catalogue.json"
_LEASE = "catalogue"
_LEASE_S = 10.0
"""How long a dead writer of the page keeps others from it."""
_PAUSE = 20.0
"""How much longer than writing the page it is left alone afterwards."""
_LEAST_PAUSE_S = 1.0


def publications(store: Store) -> list[Publication]:
    """All publications by name, build and number; never fewer than there are."""
    page = _complete(store, _page(store))
    return [ADAPTER.validate_python(page[key]) for key in sorted(page)]


def refresh(store: Store, clock: Clock) -> bool:
    """Write ``catalogue.json`` anew where it lacks entries, unless somebody else is at it.

    Who is at it holds a lease and looks again after giving it back.

    Returns:
        whether the page has all that was entered before the call.
    """
    owner = token_hex(8)
    while (lease := leases.claim(store, clock, _LEASE, owner, _LEASE_S)) is not None:
        with leases.held(store, clock, lease):
            if lease.deaths:
                leases.forget_deaths(store, lease)
            page = _page(store)
            known = _complete(store, page)
            if known.keys() != page.keys():
                store.put(PAGE, canonical_json({"schema": SCHEMA, "entries": known}))
        if known.keys() >= set(store.keys(ENTRIES)):
            return True
    return False


class PageKeeper:
    """Keeps ``catalogue.json`` up to date, in a small part of the time.

    The page grows with the catalogue: written with each publication, it would cost more than the
    publication. Whoever publishes calls `keep_up` after that, and now and then; what was entered
    before this one was there, by somebody who died, is in the page after the first call.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._is_behind = True
        self._due_s = clock.monotonic_s()

    def published(self) -> None:
        """There is a new entry."""
        self._is_behind = True

    def keep_up(self) -> None:
        """Write the page anew, where it is behind and it is time to."""
        began_s = self._clock.monotonic_s()
        if not self._is_behind or began_s < self._due_s:
            return
        self._is_behind = not refresh(self._store, self._clock)
        now_s = self._clock.monotonic_s()
        self._due_s = now_s + max(_LEAST_PAUSE_S, _PAUSE * (now_s - began_s))


def _page(store: Store) -> dict[str, Any]:
    """The entries of ``catalogue.json`` by their keys: some of those that there are."""
    try:
        document = json.loads(store.get(PAGE))
    except DocumentNotFound:
        return {}
    return dict(document["entries"]) if document["schema"] == SCHEMA else {}


def _complete(store: Store, known: dict[str, Any]) -> dict[str, Any]:
    """All entries; what is known, being immutable, is not read again."""
    return {
        key: known[key] if key in known else json.loads(store.get(key))
        for key in store.keys(ENTRIES)
    }
