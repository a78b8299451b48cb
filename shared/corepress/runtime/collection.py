"""Clearing up: what nobody names, and nobody has used for longer than the longest job.

Named is what publications were made of, and what unfinished jobs have made so far. An action that
is found done counts as used, since that looks for each of its blobs; so do blobs that a stage finds
in the store. Actions are forgotten before their blobs, and looked at once more in between: who
found one done at that moment has either left a trace by now, and then the action is put back, or
does it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from corepress.domain.artifact import Artifact, Digest
from corepress.ports.inventory import Inventory, Kept
from corepress.ports.store import DocumentNotFound, Store
from corepress.runtime.actions import manifest_key
from corepress.runtime.catalogue_page import publications
from corepress.runtime.together import Progress, call_each

_ACTIONS, _LEASES = "actions/", "leases/"
_AFTERTHOUGHT_S = 60.0
"""From reading an action to having looked for all of its blobs takes less."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What was swept, or would be: numbers of each, and the size of the blobs."""

    actions: int
    blobs: int
    blob_bytes: int
    leases: int
    left_over: int
    kept_blobs: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class _Action:
    """An action's manifest and what it names; ``used_s`` is when all of that was last used."""

    key: str
    manifest: bytes
    blobs: frozenset[Digest]
    used_s: float


def sweep(
    store: Store,
    inventory: Inventory,
    now_s: float,
    grace_s: float,
    wait: Callable[[float], None],
    progress: Progress,
    dry_run: bool = False,
) -> Swept:
    """Clear a store up.

    Args:
        store: the store.
        inventory: of the same.
        now_s: the time by its clock.
        grace_s: for how long something must not have been used; longer than the longest job.
        wait: sleeps for so many seconds.
        progress: is told how far it has come.
        dry_run: only say what would be swept.
    """
    before_s = now_s - grace_s
    blobs = {Digest(blob.name): blob for blob in inventory.blobs()}
    actions = list(_actions(store, inventory, blobs, progress))
    named = _named(store, progress)
    stale = [each for each in actions if each.key not in named and each.used_s < before_s]
    leases = [each for each in inventory.documents(_LEASES) if each.used_s < before_s]
    left_over = list(inventory.left_over(before_s))
    if not dry_run:
        stale = _forget_actions(
            store, inventory, stale, now_s, min(grace_s, _AFTERTHOUGHT_S), wait, progress
        )
        call_each(progress, "leases", leases, lambda lease: store.delete(lease.name))
        call_each(progress, "left over", left_over, inventory.discard)
    forgotten = {each.key for each in stale}
    needed = {blob for each in actions if each.key not in forgotten for blob in each.blobs}
    unused = [blob for blob in blobs.values() if blob.used_s < before_s]
    doomed = [blob for blob in unused if Digest(blob.name) not in needed]
    if not dry_run:
        forget = partial(_forget_blob, inventory, before_s)
        done = call_each(progress, "blobs", doomed, forget)
        doomed = [blob for blob, gone in zip(doomed, done, strict=True) if gone]
    doomed_bytes = sum(blob.size_bytes for blob in doomed)
    return Swept(
        actions=len(stale),
        blobs=len(doomed),
        blob_bytes=doomed_bytes,
        leases=len(leases),
        left_over=len(left_over),
        kept_blobs=len(blobs) - len(doomed),
        kept_bytes=sum(blob.size_bytes for blob in blobs.values()) - doomed_bytes,
    )


def _named(store: Store, progress: Progress) -> set[str]:
    """The actions that publications were made of, and those of unfinished jobs."""
    unfinished: dict[str, list[str]] = {}
    finished = set()
    for key in store.keys("jobs/"):
        _, job, what = key.split("/", 2)
        if what == "result.json":
            finished.add(job)
        if what.startswith("steps/"):
            unfinished.setdefault(job, []).append(key)
    steps = [key for job, keys in unfinished.items() if job not in finished for key in keys]
    read = call_each(progress, "steps of jobs", steps, partial(_document, store))
    found = {step["action"] for step in map(json.loads, filter(None, read)) if "action" in step}
    # afterwards: a job is published before it is finished
    for publication in publications(store):
        found.update(publication.steps.values())
    return found


def _actions(
    store: Store,
    inventory: Inventory,
    blobs: dict[Digest, Kept],
    progress: Progress,
) -> Iterator[_Action]:
    documents = list(inventory.documents(_ACTIONS))
    manifests = call_each(
        progress, "actions", documents, lambda document: _document(store, document.name)
    )
    for document, manifest in zip(documents, manifests, strict=True):
        key = document.name.removeprefix(_ACTIONS).removesuffix(".json")
        named = _blobs_of(manifest)
        # whoever found it done, looked for all of its blobs
        uses_s = [blobs[digest].used_s if digest in blobs else 0.0 for digest in named]
        used_s = max(document.used_s, min(uses_s, default=0.0))
        yield _Action(key, manifest, named, used_s)


def _blobs_of(manifest: bytes) -> frozenset[Digest]:
    try:
        artifacts = json.loads(manifest)["outputs"]["artifacts"].values()
    except ValueError:  # it is gone, or a power cut left it short
        return frozenset()
    trees = [Artifact.from_document(document) for document in artifacts]
    return frozenset(blob.digest for tree in trees for blob in tree.files.values())


def _forget_actions(
    store: Store,
    inventory: Inventory,
    stale: Sequence[_Action],
    now_s: float,
    afterthought_s: float,
    wait: Callable[[float], None],
    progress: Progress,
) -> list[_Action]:
    """Forget actions, but for those that turn out to be in use; returns what stays forgotten."""
    if not stale:
        return []
    call_each(progress, "actions", stale, lambda each: store.delete(manifest_key(each.key)))
    wait(afterthought_s)
    named = _named(store, progress)

    def is_used(action: _Action) -> bool:
        if action.key in named or (
            action.blobs and all(inventory.is_used_since(blob, now_s) for blob in action.blobs)
        ):
            store.create(manifest_key(action.key), action.manifest)
            return True
        return False

    used = call_each(progress, "actions", stale, is_used)
    return [each for each, again in zip(stale, used, strict=True) if not again]


def _forget_blob(inventory: Inventory, before_s: float, blob: Kept) -> bool:
    digest = Digest(blob.name)
    if inventory.is_used_since(digest, before_s):
        return False
    inventory.forget(digest)
    return True


def _document(store: Store, key: str) -> bytes:
    try:
        return store.get(key)
    except DocumentNotFound:
        return b""
