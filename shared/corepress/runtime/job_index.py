"""An index of all jobs, so that telling what became of ten thousand takes a handful of reads.

Whoever opens or ends a job writes an entry of its own. Now and then somebody gathers entries into a
page, and only then removes them; pages are gathered the same way. So writers need no coordinator
and lose nothing, several may gather at once, and a reader who begins with the entries misses
none.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from corepress.domain.artifact import canonical_json, sha256_digest
from corepress.domain.errors import Cancelled, StoreUnavailable
from corepress.domain.job import JobRequest
from corepress.ports.store import DocumentNotFound, Store

State = Literal["running", "done", "failed", "cancelled"]

_ENTRIES, _PAGES = "index/entries/", "index/pages/"
_MOST_ENTRIES = 256
_MOST_PAGES = 8
_READERS = 16
_PATIENCE = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A job at a moment.

    ``generation`` counts how often it was told to try again. ``opened_s`` and ``ended_s`` are
    seconds since 1970, UTC, or not known; ``error`` is the code and message of the first of what
    stopped it.
    """

    job: str
    generation: int
    state: State
    name: str
    source: str
    recipes: tuple[str, ...]
    tags: tuple[str, ...]
    opened_s: float | None = None
    ended_s: float | None = None
    error: tuple[str, str] | None = None

    @property
    def rank(self) -> tuple[int, bool]:
        """The highest of a job's entries holds."""
        return self.generation, self.state != "running"

    def document(self) -> dict[str, Any]:
        """The entry as JSON."""
        return asdict(self)

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Entry:
        """The inverse of `document`; what a newer version has more is left out."""
        known = {name: document[name] for name in _FIELDS}
        for name in ("recipes", "tags", "error"):
            known[name] = None if known[name] is None else tuple(known[name])
        return Entry(**known)


_FIELDS = tuple(field.name for field in fields(Entry))


def opened(job: str, generation: int, request: JobRequest, now_s: float) -> Entry:
    """The entry of a job that begins, or begins again."""
    return replace(_entry(job, generation, request), opened_s=now_s)


def ended(
    job: str,
    generation: int,
    request: JobRequest,
    errors: Mapping[str, Mapping[str, Any]],
    now_s: float,
) -> Entry:
    """The entry of a job that came to its end.

    Args:
        job: its name.
        generation: see `Entry`.
        request: what it was asked for.
        errors: what stopped it, by node.
        now_s: the time.
    """
    first = next(iter(errors.values()), None)
    return replace(
        _entry(job, generation, request),
        state=state_of(errors),
        ended_s=now_s,
        error=(first["code"], first["message"]) if first else None,
    )


def _entry(job: str, generation: int, request: JobRequest) -> Entry:
    recipes = tuple(recipe.name for recipe in request.recipes)
    return Entry(job, generation, "running", request.name, request.source, recipes, request.tags)


def state_of(errors: Mapping[str, Mapping[str, Any]]) -> State:
    """What a finished job's errors make of it."""
    if any(error["code"] == Cancelled.code for error in errors.values()):
        return "cancelled"
    return "failed" if errors else "done"


def write(store: Store, entry: Entry) -> None:
    """Write an entry; harmless when repeated."""
    phase = "running" if entry.state == "running" else "ended"
    key = f"{_ENTRIES}{entry.job}.{entry.generation}.{phase}.json"
    store.put(key, canonical_json(entry.document()))


def load(store: Store) -> dict[str, Entry]:
    """Every job's latest entry, by the job's name, sorted.

    Raises:
        StoreUnavailable: it changes faster than it can be read.
    """
    known: dict[str, list[Entry]] = {}
    for _ in range(_PATIENCE):
        keys = [*store.keys(_ENTRIES), *store.keys(_PAGES)]  # in this order, see above
        known |= _read(store, [key for key in keys if key not in known])
        if known.keys() >= set(keys):
            latest = _latest(entry for key in keys for entry in known[key])
            return dict(sorted(latest.items()))
    raise StoreUnavailable("the index of jobs is being rewritten; try again")


def gather(store: Store) -> None:
    """Gather entries into a page where there are many, and pages into one where there are many."""
    for prefix, most in ((_ENTRIES, _MOST_ENTRIES), (_PAGES, _MOST_PAGES)):
        keys = list(store.keys(prefix))
        if len(keys) < most:
            continue
        found = _read(store, keys)  # what is gone by now, another has gathered
        key = _write_page(store, (entry for entries in found.values() for entry in entries))
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(store.delete, found.keys() - {key}))


def forget(store: Store, jobs: Collection[str]) -> None:
    """Forget jobs; one whose entries are gathered at that moment may have to be forgotten again."""
    found = _read(store, [*store.keys(_ENTRIES), *store.keys(_PAGES)])
    # what holds goes last: killed half-way, no job seems to run again
    for key in sorted(found, key=lambda key: max(entry.rank for entry in found[key])):
        left = [entry for entry in found[key] if entry.job not in jobs]
        if len(left) < len(found[key]):
            if left:
                _write_page(store, left)
            store.delete(key)


def _write_page(store: Store, entries: Iterable[Entry]) -> str:
    """Write a page of what holds of each job; returns its key."""
    latest = _latest(entries)
    page = canonical_json([latest[job].document() for job in sorted(latest)])
    key = f"{_PAGES}{sha256_digest(page).removeprefix('sha256:')}.json"
    store.put(key, page)
    return key


def _read(store: Store, keys: Iterable[str]) -> dict[str, list[Entry]]:
    """The entries of documents, by key; those of documents that are gone are left out."""

    def read(key: str) -> tuple[str, list[Entry] | None]:
        try:
            document = json.loads(store.get(key))
        except DocumentNotFound:
            return key, None
        documents = document if isinstance(document, list) else [document]
        return key, [Entry.from_document(each) for each in documents]

    with ThreadPoolExecutor(_READERS) as pool:
        return {key: entries for key, entries in pool.map(read, keys) if entries is not None}


def _latest(entries: Iterable[Entry]) -> dict[str, Entry]:
    """What holds of each job, with the time when it was first opened."""
    latest: dict[str, Entry] = {}
    for entry in entries:
        other = latest.get(entry.job)
        latest[entry.job] = entry if other is None else _merged(entry, other)
    return latest


def _merged(one: Entry, other: Entry) -> Entry:
    times_s = [each.opened_s for each in (one, other) if each.opened_s is not None]
    return replace(max(one, other, key=lambda each: each.rank), opened_s=min(times_s, default=None))
