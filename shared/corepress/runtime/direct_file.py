"""A new large file, written past the page cache.

Copying gigabytes into the page cache costs more processor time than hashing them, and drives out of
memory what others read. So whole blocks go to the disk as they are (``O_DIRECT`` of open(2)), where
the system and the file system can do that.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path

_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux has it
BLOCK_BYTES = 4 << 20
"""A multiple of every disk's own block, and large enough for its full speed."""


class DirectFile:
    """A file that is appended to; a last incomplete block is written through the page cache."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        """Make the file, or empty it but for its first bytes.

        Args:
            path: of the file.
            keep_bytes: how many of its bytes stay, a multiple of `BLOCK_BYTES`.

        Raises:
            OSError: it cannot be made.
        """
        self._descriptor = _opened(path, 0 if keep_bytes else os.O_TRUNC)
        if keep_bytes:
            os.truncate(self._descriptor, keep_bytes)
            os.lseek(self._descriptor, keep_bytes, os.SEEK_SET)
        self._block = mmap.mmap(-1, BLOCK_BYTES)  # memory of its own begins at a page
        self._filled_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            OSError: the disk does not take them.
        """
        rest = memoryview(data)
        while rest:
            part = rest[: BLOCK_BYTES - self._filled_bytes]
            self._block[self._filled_bytes : self._filled_bytes + len(part)] = part
            self._filled_bytes += len(part)
            rest = rest[len(part) :]
            if self._filled_bytes == BLOCK_BYTES:
                self._flush()

    def close(self) -> None:
        """Write what is left.

        Raises:
            OSError: the disk does not take it.
        """
        if self._descriptor < 0:
            return
        try:
            _write_through_cache(self._descriptor)
            self._flush()
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def _flush(self) -> None:
        with memoryview(self._block)[: self._filled_bytes] as rest:
            self._filled_bytes = 0
            written = 0
            while written < len(rest):
                try:
                    written += os.write(self._descriptor, rest[written:])
                except OSError as error:
                    if error.errno != errno.EINVAL or not _write_through_cache(self._descriptor):
                        raise


def _opened(path: Path, truncate: int) -> int:
    flags = truncate | os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags | _DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that can't
            raise
        return os.open(path, flags, 0o666)


def _write_through_cache(descriptor: int) -> bool:
    """Write as usual from here on; whether that is a change."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
    return bool(flags & _DIRECT)
