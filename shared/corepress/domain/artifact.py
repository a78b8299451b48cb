"""Files by digest: what stages read, write and hand on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NewType

Digest = NewType("Digest", str)
"""``sha256:<hex>``, the digest of a file's bytes; ``tensors:<hex>``, see `tensors_digest`; or
``arranged:<hex>``, of weights whose tensors are in another order than the canonical one."""


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256_digest(data: bytes) -> Digest:
    """The digest of bytes in memory."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """One tensor of a weight file: what identifies it wherever it is stored.

    ``dtype`` is safetensors' name of the type, ``data_sha256`` the hexadecimal sha256 of the
    tensor's bytes in row-major, little-endian order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data_sha256: str


def tensors_digest(tensors: Iterable[TensorDigest]) -> Digest:
    """The digest of a component's weights, the same however they are laid out in files."""
    rows = sorted([t.name, t.dtype, list(t.shape), t.data_sha256] for t in tensors)
    return Digest("tensors:" + hashlib.sha256(canonical_json(rows)).hexdigest())


@dataclass(frozen=True, slots=True)
class Part:
    """Of which file another one is a part: its path, and the digest of its content."""

    path: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Blob:
    """A file's content in a store.

    ``part_of`` is set on a shard of a component's weights and on the index of shards, and on a
    weight file whose tensors are in another order than the canonical one.
    """

    digest: Digest
    size_bytes: int
    part_of: Part | None = None

    def document(self) -> dict[str, Any]:
        """The blob as JSON."""
        document: dict[str, Any] = {"digest": self.digest, "bytes": self.size_bytes}
        return document | ({"part_of": asdict(self.part_of)} if self.part_of else {})

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Blob:
        """The inverse of `document`."""
        part_of = document.get("part_of")
        return Blob(
            Digest(document["digest"]),
            int(document["bytes"]),
            Part(part_of["path"], Digest(part_of["digest"])) if part_of else None,
        )


@dataclass(frozen=True, slots=True)
class Artifact:
    """A small tree of files: ``files`` maps relative POSIX paths to their contents."""

    files: Mapping[str, Blob]

    @property
    def identity(self) -> Digest:
        """The digest by which this artifact enters an action key.

        In it the whole stands for its parts, so that sharding is no change of content.
        """
        parts = (blob.part_of or Part(path, blob.digest) for path, blob in self.files.items())
        return sha256_digest(canonical_json({part.path: part.digest for part in parts}))

    @property
    def size_bytes(self) -> int:
        """The sum of the files' sizes."""
        return sum(blob.size_bytes for blob in self.files.values())

    def document(self) -> dict[str, Any]:
        """The artifact as JSON, for messages and action manifests."""
        return {path: self.files[path].document() for path in sorted(self.files)}

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Artifact:
        """The inverse of `document`."""
        return Artifact({path: Blob.from_document(entry) for path, entry in document.items()})
