"""Files written past the page cache hold what was written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from corepress.runtime.direct_file import DirectFile

MIB = 1 << 20


@pytest.mark.parametrize("folder", [None, "/dev/shm"])  # the second one knows no direct writes
@pytest.mark.parametrize(
    "pieces",
    [[], [1], [4 * MIB], [4 * MIB - 1, 2], [MIB] * 9 + [513, 4095], [13 * MIB + 7, 1]],
)
def test_pieces_of_any_size(tmp_path: Path, folder: str | None, pieces: list[int]) -> None:
    path = (Path(folder) if folder else tmp_path) / f"corepress-direct-{os.getpid()}"
    data = [os.urandom(size) for size in pieces]
    try:
        file = DirectFile(path)
        for piece in data:
            file.write(memoryview(piece))
        file.close()
        file.close()
        assert path.read_bytes() == b"".join(data)
    finally:
        path.unlink(missing_ok=True)


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"longer than what follows")
    file = DirectFile(path)
    file.write(b"short")
    file.close()
    assert path.read_bytes() == b"short"


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    file = DirectFile(path)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        file.write(bytes(4 * MIB))
    file.close()
