"""A stage is a function: it sees its task and a workspace, and returns named outputs.

It never sees which store holds its files, nor the bus, the environment or an acknowledgement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from corepress.domain.artifact import Artifact, Blob, Digest, canonical_json, sha256_digest
from corepress.domain.checkpoint import ByteSource


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work: what enters its action key, and nothing else.

    ``parameters`` is plain JSON: just what of the job's options and recipe touches this task.
    """

    stage: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Artifact] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The task as JSON."""
        return {
            "stage": self.stage,
            "parameters": dict(self.parameters),
            "inputs": {name: artifact.document() for name, artifact in self.inputs.items()},
        }

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Task:
        """The inverse of `document`."""
        return Task(
            stage=document["stage"],
            parameters=document["parameters"],
            inputs={
                name: Artifact.from_document(files) for name, files in document["inputs"].items()
            },
        )


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a stage made: artifacts by name, and facts (plain JSON) that later stages need."""

    artifacts: Mapping[str, Artifact]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The outputs as JSON."""
        return {
            "artifacts": {name: a.document() for name, a in self.artifacts.items()},
            "facts": dict(self.facts),
        }

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Outputs:
        """The inverse of `document`."""
        return Outputs(
            artifacts={
                name: Artifact.from_document(files) for name, files in document["artifacts"].items()
            },
            facts=document["facts"],
        )


class Handle(ByteSource, Protocol):
    """A stored file: readable by ranges, or as a local file, whichever the stage prefers."""

    def local_path(self) -> Path:
        """A local, read-only path of the file; it may be downloaded or linked by this call."""
        ...


class BlobWriter(Protocol):
    """A file being written into the store."""

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        ...

    def clone(self, source: Handle) -> bool:
        """Have all that a stored file has, where that moves nothing (a reflink).

        To be asked before anything is written, and then nothing may be written any more. Returns
        False, and does nothing, where it cannot be.
        """
        ...

    def copy_range(self, source: Handle, offset: int, size_bytes: int) -> None:
        """Append a range of a stored file; a store may do so without moving bytes through here."""
        ...

    def commit(self, digest: Digest | None = None) -> Blob:
        """Make the file durable under ``digest``, by default the sha256 of what was written.

        A digest that is given is believed (``tensors:`` digests cannot be derived from bytes);
        its file has the one canonical layout, so that equal digests mean equal bytes.
        """
        ...


class Workspace(Protocol):
    """All that a running stage may touch."""

    @property
    def scratch(self) -> Path:
        """An empty folder of its own, deleted afterwards."""
        ...

    def open(self, blob: Blob) -> Handle:
        """The stored file of an input (or of an output already kept)."""
        ...

    def has(self, blob: Blob) -> bool:
        """Whether the store holds this file already, so that it need not be made."""
        ...

    def keep(self, path: Path) -> Blob:
        """Hand a finished local file over to the store; the path must not be used afterwards."""
        ...

    def adopt(self, path: Path, digest: Digest) -> Blob:
        """Let the store have a user's own file at least cost: it may be linked, never changed."""
        ...

    @property
    def identifies_weights(self) -> bool:
        """Whether weight files go by the digest over their tensors, and not by their sha256."""
        ...

    @property
    def copies_ranges(self) -> bool:
        """Whether `BlobWriter.copy_range` moves nothing through here."""
        ...

    def create(self, digest: Digest | None = None) -> AbstractContextManager[BlobWriter]:
        """A file written as a stream; leaving the context without a commit discards it.

        A digest that is known beforehand may save the store a copy.
        """
        ...

    def progress(self, activity: str, done: float, total: float, unit: str = "B") -> None:
        """Report how far an activity has come; cheap, call it as often as convenient."""
        ...

    def keep_bytes(self, data: bytes) -> Blob:
        """Hand a small document over to the store."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as its package declares it under the entry point group ``corepress.stages``.

    ``revision`` grows whenever equal tasks would give different outputs; ``toolchain`` names the
    distributions whose versions enter the action key.
    """

    name: str
    revision: int
    run: Callable[[Task, Workspace], Outputs]
    toolchain: tuple[str, ...] = ()


def action_key(task: Task, revision: int, toolchain: Mapping[str, str]) -> str:
    """What makes two tasks the same work: stage, revision, parameters, inputs, versions.

    Returns:
        64 hexadecimal digits.
    """
    document = {
        "stage": task.stage,
        "revision": revision,
        "parameters": task.parameters,
        "inputs": {name: artifact.identity for name, artifact in task.inputs.items()},
        "toolchain": dict(toolchain),
    }
    return sha256_digest(canonical_json(document)).removeprefix("sha256:")
