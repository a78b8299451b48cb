"""What became of a fleet's jobs, read from store and broker themselves.

Nothing that a worker says counts: neither its log nor its exit status.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from poison import Poison, found_in

from corepress.adapters.s3.store import S3Store
from corepress.domain.publication import Publication
from corepress.ports.bus import DeadLetter
from corepress.ports.store import DocumentNotFound
from corepress.runtime import job_events, job_index, jobs
from corepress.runtime.catalogue_page import PAGE, publications

_READERS = 16
_LOOK_EVERY_S = 0.5
_PAGE_LAGS_S = 180.0
"""How far the catalogue's page may be behind: an idle worker writes it, a new one at its start."""


@dataclass
class Audit:
    """What is wrong: nothing, it is hoped.

    Attributes:
        lost: jobs that were asked for, and are not done, or whose bundle is not whole.
        twice: what was published, or told to have ended, more than once.
        limbo: what is neither done nor given up.
        letters: dead letters that nobody planted, and poison that is none.
        copies: how many more dead letters there are than poison: a letter may come twice.
        events: how often each kind of event was told.
        cached: how many deliveries found their work done.
    """

    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    limbo: list[str] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)
    copies: int = 0
    events: Counter[str] = field(default_factory=Counter)
    cached: int = 0

    @property
    def faults(self) -> dict[str, list[str]]:
        """All that is wrong, by what it is."""
        all_ = {
            "lost": self.lost,
            "twice": self.twice,
            "limbo": self.limbo,
            "letters": self.letters,
        }
        return {what: found for what, found in all_.items() if found}


def audited(
    store: S3Store,
    letters: Sequence[DeadLetter],
    waiting: Mapping[str, int],
    wanted: Mapping[str, str],
    planted: Collection[Poison],
) -> Audit:
    """Look at everything.

    Args:
        store: the fleet's.
        letters: the dead letters.
        waiting: how many messages are in each other queue, or in anybody's hands.
        wanted: the names of the models by the jobs that must be done.
        planted: what must be a dead letter, and nothing else.
    """
    audit = Audit()
    audit.limbo += [f"{count} messages in {queue}" for queue, count in waiting.items()]
    poisoned = {each.what for each in planted}
    with ThreadPoolExecutor(_READERS) as pool:
        known = {key.split("/")[1] for key in store.keys("jobs/")}
        for job in known - wanted.keys() - poisoned:
            audit.twice.append(f"{job} is a job that nobody asked for")
        told = dict(zip(known, pool.map(partial(job_events.history, store), known), strict=True))
        ended = dict(zip(known, pool.map(partial(jobs.result, store), known), strict=True))
        for job in {*known, *wanted}:
            _look_at_job(audit, job, ended.get(job), job in wanted)
        for job, events in told.items():
            _look_at_events(audit, job, events)
        _look_at_catalogue(audit, store, wanted)
        for fault in pool.map(partial(_fault_of_bundle, store), publications(store)):
            audit.lost += fault
    index = job_index.load(store)
    audit.limbo += [f"{job} runs by the index" for job in known if index[job].state == "running"]
    found = Counter(found_in(letters))
    audit.letters += [f"nobody planted {each}" for each in found.keys() - set(planted)]
    audit.letters += [f"no dead letter: {each}" for each in set(planted) - found.keys()]
    audit.copies = found.total() - len(found)
    return audit


def _look_at_job(audit: Audit, job: str, result: jobs.JobResult | None, is_wanted: bool) -> None:
    if result is None:
        audit.limbo.append(f"{job} has no result")
    elif is_wanted and result.errors:
        audit.lost.append(f"{job} failed: {result.errors}")
    elif not is_wanted and not result.errors:
        audit.letters.append(f"{job} was poison, and is done")


def _look_at_events(audit: Audit, job: str, events: Sequence[job_events.Event]) -> None:
    kinds = Counter(event.kind for event in events)
    audit.events += kinds
    audit.cached += sum(
        event.kind == "step.finished" and event.data["cached"] is True for event in events
    )
    for kind in ("job.accepted", "job.finished"):
        if kinds[kind] > 1:
            audit.twice.append(f"{job} has {kinds[kind]} events {kind}")
        if kinds[kind] < 1:
            audit.limbo.append(f"{job} has no event {kind}")


def _look_at_catalogue(audit: Audit, store: S3Store, wanted: Mapping[str, str]) -> None:
    """Every job has one entry, the page has all of them, and nothing else is published."""
    entries = list(store.keys("catalogue/entries/"))
    counts = Counter(key.split("/")[2] for key in entries)
    names = set(wanted.values())
    audit.twice += [f"{name}: {count} publications" for name, count in counts.items() if count > 1]
    audit.twice += [f"{name} was not to be published" for name in counts.keys() - names]
    audit.lost += [f"{name} is not in the catalogue" for name in names - counts.keys()]
    missing = set(entries)
    deadline_s = time.monotonic() + _PAGE_LAGS_S
    while missing and time.monotonic() < deadline_s:
        time.sleep(_LOOK_EVERY_S)
        with suppress(DocumentNotFound):
            missing -= json.loads(store.get(PAGE))["entries"].keys()
    audit.lost += [f"{PAGE} lacks {key}" for key in missing]
    versions = defaultdict(set)
    for key in store.keys("published/"):
        name, build, *rest = key.split("/")[1:]
        if len(rest) > 1:
            versions[name, build].add(rest[0])
    audit.twice += [
        f"{name}: {sorted(each)}" for (name, _), each in versions.items() if len(each) > 1
    ]


def _fault_of_bundle(store: S3Store, published: Publication) -> list[str]:
    """Whether a published bundle is not just what its job's step made."""
    result = jobs.result(store, published.job)
    if result is None:
        return []  # which is told elsewhere
    bundle = jobs.outputs_of(store, result.builds[published.build]).artifacts["bundle"]
    latest = json.loads(store.get(f"published/{published.name}/{published.build}/latest.json"))
    faults = [] if latest["path"] == published.path else [f"{published.name}: latest is {latest}"]
    there = {key.removeprefix(published.path) for key in store.keys(published.path)}
    if there != bundle.files.keys():
        faults.append(f"{published.name} has {sorted(there)}, not {sorted(bundle.files)}")
    for path in there & bundle.files.keys():
        sha256 = hashlib.sha256(store.get(published.path + path)).hexdigest()
        if bundle.files[path].digest != f"sha256:{sha256}":
            faults.append(f"{published.name}/{path} has the sha256 {sha256}")
    return faults
