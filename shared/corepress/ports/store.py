"""The store: documents by key, files by digest.

Semantics that every implementation keeps, checked by `corepress.testing.store_contract`:

- what a call has returned from is visible to every later call of any process (S3 is strongly
  consistent; so is a folder);
- a document is read as it was written, never half of it;
- `create` makes a document exactly once, however many callers race;
- a blob is complete or absent, never half-written, and never changes once it is there: whoever
  brings the same digest again, however many at once, leaves it as it is;
- a blob that lost bytes (a power cut, a changed file that was adopted) is absent, and can be
  brought again;
- a listing sees every document created before it began.

Keys are relative POSIX paths; no key is a folder of another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from corepress.domain.artifact import Blob, Digest
from corepress.domain.stage import BlobWriter, Handle, UnfinishedBlob


class DocumentNotFound(LookupError):
    """No document has this key."""


class BlobNotFound(LookupError):
    """The store holds no file of this digest."""


class Store(Protocol):
    """Documents and blobs. Every method may raise `StoreUnavailable` or `DiskFull`."""

    @property
    def copies_ranges(self) -> bool:
        """Whether it copies ranges of blobs into new ones without their passing through here."""
        ...

    def get(self, key: str) -> bytes:
        """The document at ``key``.

        Raises:
            DocumentNotFound: there is none.
        """
        ...

    def age_s(self, key: str) -> float:
        """How long ago the document at ``key`` was written, by the store's own clock.

        It is right to two seconds.

        Raises:
            DocumentNotFound: there is none.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write a document, replacing an older one: for what is renewed or derived anew."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write a document unless the key is taken; returns whether this call wrote it."""
        ...

    def delete(self, key: str) -> None:
        """Remove a document; none there is no error."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with ``prefix``, sorted."""
        ...

    def has(self, blob: Blob) -> bool:
        """Whether the blob is there, whole; counts as a use of it."""
        ...

    def open(self, blob: Blob) -> Handle:
        """The blob's content.

        Raises:
            BlobNotFound: it is not there.
        """
        ...

    def writer(self, digest: Digest | None = None) -> AbstractContextManager[BlobWriter]:
        """A new blob as a stream; leaving the context without a commit discards it.

        Equal digests must mean equal bytes, also where a digest is given to the commit. One that
        is known beforehand may save the store a copy.
        """
        ...

    def can_copy(self, source: Handle) -> bool:
        """Whether `BlobWriter.copy_range` of this file moves nothing through here."""
        ...

    def resume(
        self, name: str, digest: Digest | None = None
    ) -> AbstractContextManager[UnfinishedBlob]:
        """A new blob as a stream, which may begin with what an earlier one of that name had.

        Where the context is left by a failure that may pass, or the process is killed in it, a
        store may keep what was written for the next who resumes that name. Left in any other way
        without a commit, it is discarded.

        Args:
            name: of one content, ``a-z0-9``; an empty one is never kept.
            digest: as for `writer`.
        """
        ...

    def add(self, path: Path) -> Blob:
        """Take a finished local file over under its sha256; the path must not be used again."""
        ...

    def adopt(self, path: Path, digest: Digest) -> Blob:
        """Have a user's file as a blob at least cost; the user's file stays as it is."""
        ...
