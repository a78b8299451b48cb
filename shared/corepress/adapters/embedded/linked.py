"""Blobs that are hard links to a user's files, and what shows that such a file was changed.

A hard link shares its bytes with the user's file, so size and modification time are recorded
beside it. Once they differ, the blob counts as gone.
"""

from __future__ import annotations

import os
from pathlib import Path

from corepress.domain.errors import SourceUnavailable
from corepress.runtime.files import LocalFile

_ENDING = ".linked"


def guard_path(blob: Path) -> Path:
    """Where the record of a linked blob is; no blob without one is a link."""
    return blob.with_name(blob.name + _ENDING)


def is_guard(path: Path) -> bool:
    """Whether a file is such a record and no blob."""
    return path.name.endswith(_ENDING)


def stamp(stat: os.stat_result) -> str:
    """What changes when a file does, as it is recorded."""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def recorded_stamp(blob: Path) -> str | None:
    """The stamp that a linked blob must have, None for a blob that is a file of its own."""
    try:
        return guard_path(blob).read_text()
    except FileNotFoundError:
        return None


def is_unchanged(blob: Path) -> bool:
    """Whether a blob, linked or not, is what it was when it was stored.

    Raises:
        FileNotFoundError: there is no such blob.
    """
    return recorded_stamp(blob) in (None, stamp(blob.stat()))


class LinkedFile(LocalFile):
    """A `Handle` of a linked blob: every read makes sure that the user left the file alone."""

    def __init__(self, path: Path, expected: str) -> None:
        super().__init__(path)
        self._expected = expected

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` bytes from ``offset``.

        Raises:
            CorruptCheckpoint: the range leaves the file.
            SourceUnavailable: the file was changed meanwhile.
        """
        data = super().read(offset, size_bytes)
        if stamp(self.local_path().stat()) != self._expected:
            raise SourceUnavailable(
                "a file of the checkpoint was changed while it was worked on",
                hint="start again once nothing writes to it any more",
            )
        return data
