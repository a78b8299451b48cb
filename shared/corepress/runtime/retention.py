"""Forgetting jobs that ended long ago, and what was dropped for them.

Only what an operator asks for goes, and never what is still of use: a job that has not ended, one
that a published version names (a rebuild asks for what it was asked for), one whose drop is kept;
a dropped checkpoint whose own job has not ended, or that another such job names as a source.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from corepress.ports.inventory import Inventory, Kept
from corepress.ports.store import DocumentNotFound, Store
from corepress.runtime import job_index
from corepress.runtime.catalogue_page import publications
from corepress.runtime.jobs import document_key
from corepress.runtime.together import Progress, call_each

ACCEPTED, REJECTED = "accepted/", "rejected/"
"""Where the drop folder's intake moves what was dropped, each into a folder of its own."""
ACCEPTED_NOTE, REJECTED_NOTE = ".accepted.json", ".error.json"
"""Endings of what tells of a drop; ``job`` in the first is the name of its job."""

_JOBS = "jobs/"
_LAST = ("opening", "request", "result")
"""Without these there is no job; while they are there, a request that comes again is its own."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten, or would be: numbers of each, and the size of what was dropped."""

    jobs: int
    drops: int
    drop_bytes: int


@dataclass(frozen=True, slots=True)
class _Folder:
    """Documents that belong together; ``used_s`` is when the last of them was written."""

    name: str
    documents: tuple[Kept, ...]

    @property
    def used_s(self) -> float:
        return max(each.used_s for each in self.documents)

    @property
    def size_bytes(self) -> int:
        return sum(each.size_bytes for each in self.documents)

    def ended_s(self) -> float | None:
        """Of a job, when it ended; None where it has not."""
        result = document_key(self.name, "result")
        return next((each.used_s for each in self.documents if each.name == result), None)


def forget(
    store: Store,
    inventory: Inventory,
    jobs_before_s: float | None,
    drops_before_s: float | None,
    progress: Progress,
    dry_run: bool = False,
) -> Forgotten:
    """Forget what ended before some moment, by the store's clock.

    Args:
        store: the store.
        inventory: of the same.
        jobs_before_s: jobs that ended before are forgotten; None: none.
        drops_before_s: drops that were rejected before, or whose jobs ended before; None: none.
        progress: is told how far it has come.
        dry_run: only say what would be forgotten.
    """
    if jobs_before_s is None and drops_before_s is None:
        return Forgotten(0, 0, 0)
    jobs = {each.name: each for each in _folders(inventory, _JOBS)}
    accepted = list(_folders(inventory, ACCEPTED))
    drops: list[_Folder] = []
    if drops_before_s is not None:
        rejected = [each for each in _folders(inventory, REJECTED) if each.used_s < drops_before_s]
        drops = rejected + _unneeded(store, accepted, jobs, drops_before_s, progress)
    ended: list[_Folder] = []
    if jobs_before_s is not None:
        gone = {each.name for each in drops}
        kept = [each for each in accepted if each.name not in gone]
        of_drops = {job for job in map(partial(_job_of, store), kept) if job}
        named = of_drops | {entry.job for entry in publications(store)}
        ended = [
            job for job in jobs.values() if _is_over(job, jobs_before_s) and job.name not in named
        ]
    if not dry_run:
        call_each(progress, "drops", drops, partial(_forget_drop, store))
        call_each(progress, "jobs", ended, partial(_forget_job, store))
        if jobs_before_s is not None:
            left = jobs.keys() - {job.name for job in ended}
            _forget_entries(store, left, jobs_before_s)
    return Forgotten(len(ended), len(drops), sum(each.size_bytes for each in drops))


def _folders(inventory: Inventory, prefix: str) -> Iterator[_Folder]:
    """What is below a prefix, by the first part of the names; those of drops keep the prefix."""
    found: dict[str, list[Kept]] = {}
    for document in inventory.documents(prefix):
        name = document.name.removeprefix(prefix).partition("/")[0]
        found.setdefault(name if prefix == _JOBS else f"{prefix}{name}/", []).append(document)
    for name, documents in found.items():
        yield _Folder(name, tuple(documents))


def _unneeded(
    store: Store,
    accepted: Collection[_Folder],
    jobs: Mapping[str, _Folder],
    before_s: float,
    progress: Progress,
) -> list[_Folder]:
    """The accepted drops whose jobs ended long ago, and that no other job needs."""
    found = []
    for drop in accepted:
        job = jobs.get(_job_of(store, drop) or "") if drop.used_s < before_s else None
        if job is not None and _is_over(job, before_s):
            found.append(drop)
    if not found:
        return []
    at_work = [job.name for job in jobs.values() if job.ended_s() is None]
    requests = call_each(progress, "requests", at_work, partial(_request, store))
    return [drop for drop in found if not any(drop.name.encode() in each for each in requests)]


def _is_over(job: _Folder, before_s: float) -> bool:
    ended_s = job.ended_s()
    return ended_s is not None and ended_s < before_s


def _job_of(store: Store, drop: _Folder) -> str | None:
    """The job of an accepted drop; None where it is not there yet."""
    for document in drop.documents:
        if document.name.endswith(ACCEPTED_NOTE):
            try:
                return str(json.loads(store.get(document.name))["job"])
            except DocumentNotFound:
                return None
    return None


def _request(store: Store, job: str) -> bytes:
    try:
        return store.get(document_key(job, "request"))
    except DocumentNotFound:
        return b""


def _forget_drop(store: Store, drop: _Folder) -> None:
    """The note goes last: without it nobody would know whose the rest is."""
    notes = (ACCEPTED_NOTE, REJECTED_NOTE)
    for document in sorted(drop.documents, key=lambda each: each.name.endswith(notes)):
        store.delete(document.name)


def _forget_job(store: Store, job: _Folder) -> None:
    last = [document_key(job.name, what) for what in _LAST]
    try:
        store.get(last[-1])
    except DocumentNotFound:  # it was told to try again meanwhile
        return
    for document in job.documents:
        if document.name not in last:
            store.delete(document.name)
    for key in last:
        store.delete(key)


def _forget_entries(store: Store, left: Collection[str], before_s: float) -> None:
    """Forget entries of the index whose jobs are gone."""
    gone = {
        name
        for name, entry in job_index.load(store).items()
        if name not in left and entry.ended_s is not None and entry.ended_s < before_s
    }
    if gone:
        job_index.forget(store, gone)
