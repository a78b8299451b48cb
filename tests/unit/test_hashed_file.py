"""A source's sha256 is found out whatever of it is read, and in whatever order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from corepress.runtime.files import LocalFile
from corepress.runtime.lanes import Lane
from corepress_normalize.hashed_file import HashedFile

MIB = 1 << 20
CONTENT = os.urandom(11 * MIB + 5)


class CountingFile(LocalFile):
    """Knows how much was read of it."""

    read_bytes = 0

    def read(self, offset: int, size_bytes: int) -> bytes:
        self.read_bytes += size_bytes
        return super().read(offset, size_bytes)


@pytest.fixture
def file(tmp_path: Path) -> CountingFile:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return CountingFile(path)


@pytest.mark.parametrize(
    "reads",
    [
        [],
        [(0, 8), (8, 500), (0, 8), (600, MIB), (600 + MIB, MIB)],
        [(9 * MIB, 100), (0, 8), (10 * MIB, MIB)],
        [(0, 8), (5 * MIB, MIB), (8, MIB), (6 * MIB, MIB)],
        [(0, 7 * MIB), (3, 4), (7 * MIB, 4 * MIB + 5)],
    ],
)
def test_any_order(file: CountingFile, reads: Sequence[tuple[int, int]]) -> None:
    with Lane("hash") as lane:
        hashed = HashedFile(file, lane)
        for offset, size in reads:
            assert hashed.read(offset, size) == CONTENT[offset : offset + size]
        blob = hashed.blob()
    assert blob.digest == "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    assert blob.size_bytes == len(CONTENT)


def test_what_is_read_in_order_is_read_once(file: CountingFile) -> None:
    with Lane("hash") as lane:
        hashed = HashedFile(file, lane)
        hashed.read(0, 8)
        for start in range(1000, len(CONTENT), MIB):
            hashed.read(start, min(MIB, len(CONTENT) - start))
        hashed.blob()
    assert file.read_bytes == len(CONTENT)
