"""Files by digest: what stages read, write and hand on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NewType

Digest = NewType("Digest", str)
"""``sha256:<hex>``, the digest of a file's bytes, or ``tensors:<hex>``, see `tensors_digest`."""


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
class Blob:
    """A file's content in a store."""

    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A small tree of files: ``files`` maps relative POSIX paths to their contents."""

    files: Mapping[str, Blob]

    @property
    def identity(self) -> Digest:
        """The digest by which this artifact enters an action key."""
        return sha256_digest(
            canonical_json({path: blob.digest for path, blob in self.files.items()})
        )

    @property
    def size_bytes(self) -> int:
        """The sum of the files' sizes."""
        return sum(blob.size_bytes for blob in self.files.values())

    def document(self) -> dict[str, Any]:
        """The artifact as JSON, for messages and action manifests."""
        return {
            path: {"digest": blob.digest, "bytes": blob.size_bytes}
            for path, blob in sorted(self.files.items())
        }

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Artifact:
        """The inverse of `document`."""
        return Artifact(
            {
                path: Blob(Digest(entry["digest"]), int(entry["bytes"]))
                for path, entry in document.items()
            }
        )
