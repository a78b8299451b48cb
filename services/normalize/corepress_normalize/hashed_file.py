"""A file of a source whose sha256 is found out while it is read."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from corepress.domain.artifact import Blob, Digest
from corepress.runtime.files import LocalFile
from corepress.runtime.lanes import Lane

_PIECE_BYTES = 1 << 20
_LARGEST_GAP_BYTES = 4 << 20  # such as a header, which is read beforehand


class HashedFile:
    """A `corepress.domain.stage.Handle` that hashes what passes, as long as that is in order.

    Once something is read from further behind, the rest is read a second time, at the same time as
    others read on: it is in the page cache then, or will be for them.

    Args:
        file: on disk.
        lane: in which it is hashed, its alone.
    """

    def __init__(self, file: LocalFile, lane: Lane) -> None:
        self._file = file
        self._lane = lane
        self._hasher = hashlib.sha256()
        self._position = 0

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return self._file.size_bytes

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` bytes from ``offset``; see `LocalFile.read`."""
        data = self._file.read(offset, size_bytes)
        gap_bytes = offset - self._position
        if 0 <= gap_bytes <= _LARGEST_GAP_BYTES:
            self._hash_to(offset)
            self._lane.submit(partial(self._hasher.update, data))
            self._position = offset + size_bytes
            if size_bytes > _PIECE_BYTES:  # lanes bound the number of pieces, not their size
                self._lane.wait()
        elif gap_bytes > 0:
            self._hash_to(self.size_bytes)
        return data

    def local_path(self) -> Path:
        """The file itself."""
        return self._file.local_path()

    def blob(self) -> Blob:
        """What the whole file is.

        Raises:
            SourceUnavailable: see `LocalFile.read`.
        """
        self._hash_to(self.size_bytes)
        self._lane.wait()
        return Blob(Digest(f"sha256:{self._hasher.hexdigest()}"), self.size_bytes)

    def _hash_to(self, end: int) -> None:
        """Hash what lies before ``end``, if something does."""
        if self._position < end:
            self._lane.submit(partial(self._hash, self._position, end))
            self._position = end

    def _hash(self, start: int, end: int) -> None:
        while start < end and not self._lane.abandoned:
            data = self._file.read(start, min(_PIECE_BYTES, end - start))
            self._hasher.update(data)
            start += len(data)
