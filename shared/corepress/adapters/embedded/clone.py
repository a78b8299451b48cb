"""Copies that share their bytes with the original until one of them changes (reflinks)."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

_FICLONE = 0x40049409  # linux/fs.h, ioctl_ficlone(2)


def clone(source: Path, target: Path) -> bool:
    """Make ``target`` a reflink of ``source``; False where the file system cannot."""
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415  (absent on other systems)

        with source.open("rb") as original, target.open("wb") as copy:
            try:
                fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
            except OSError:
                target.unlink()
                return False
        return True
    if sys.platform == "darwin":
        # clonefile(2); copyfile's flags exist on every APFS volume
        library = ctypes.CDLL(None, use_errno=True)
        return bool(library.clonefile(os.fsencode(source), os.fsencode(target), 0) == 0)
    return False


def clone_or_copy(source: Path, target: Path) -> None:
    """A file of its own with the same bytes, shared on disk where the file system can."""
    if not clone(source, target):
        shutil.copyfile(source, target)
