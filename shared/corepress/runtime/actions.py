"""Committed actions: what a task produced, kept under its action key.

Blobs come first and the manifest last, so a manifest that is there names blobs that were there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from corepress.domain.artifact import canonical_json
from corepress.domain.stage import Outputs, Stage, Task, action_key
from corepress.ports.store import DocumentNotFound, Store


@dataclass(frozen=True, slots=True)
class Action:
    """A task, its key, and the versions that entered it."""

    key: str
    task: Task
    toolchain: dict[str, str]


def installed_version(distribution: str) -> str:
    """The version of an installed distribution, ``absent`` where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def action_of(stage: Stage, task: Task) -> Action:
    """The action that running this task on this host would be.

    Raises:
        CompilerUnavailable: this host cannot run it.
    """
    toolchain = {name: installed_version(name) for name in sorted(stage.toolchain)}
    toolchain |= stage.tools()
    return Action(action_key(task, stage.revision, toolchain), task, toolchain)


def load_outputs(store: Store, key: str) -> Outputs | None:
    """The outputs of a committed action, None where it or one of its blobs is missing.

    Counts as a use of the blobs. A manifest that a power cut left short counts as missing.
    """
    try:
        document = json.loads(store.get(manifest_key(key)))
    except (DocumentNotFound, ValueError):
        return None
    outputs = Outputs.from_document(document["outputs"])
    files = (blob for tree in outputs.artifacts.values() for blob in tree.files.values())
    blobs = {(blob.digest, blob.size_bytes): blob for blob in files}
    return outputs if all(store.has(blob) for blob in blobs.values()) else None


def commit(store: Store, action: Action, outputs: Outputs) -> Outputs:
    """Make the action's outcome known; the blobs must be in the store.

    Returns:
        what stands: where another did the same work meanwhile, its outcome does, since what
        follows is built on one.
    """
    document = {
        "stage": action.task.stage,
        "toolchain": action.toolchain,
        "outputs": outputs.document(),
    }
    manifest = canonical_json(document)
    key = manifest_key(action.key)
    if not store.create(key, manifest):
        if (standing := load_outputs(store, action.key)) is not None:
            return standing
        store.put(key, manifest)
    return outputs


def manifest_key(key: str) -> str:
    """Where an action's manifest is."""
    return f"actions/{key}.json"
