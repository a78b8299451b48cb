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
        if library.clonefile(os.fsencode(source), os.fsencode(target), 0):
            return False
        target.chmod(0o644)  # it has the original's mode, which may forbid writing
        return True
    return False


def clone_over(source: Path, target: Path) -> bool:
    """Replace a file by a reflink of another one; False, and it stays, where that cannot be."""
    new = target.with_name(f"{target.name}.clone")
    if not clone(source, new):
        return False
    new.replace(target)
    return True


def can_clone(source: Path, target: Path) -> bool:
    """Whether files in one folder can be cloned into another; nothing is left of the attempt."""
    if source.stat().st_dev != target.stat().st_dev:
        return False
    if sys.platform != "linux":
        return sys.platform == "darwin"
    import fcntl  # noqa: PLC0415  (absent on other systems)

    try:
        with (
            os.fdopen(os.open(source, os.O_TMPFILE | os.O_RDWR), "wb") as original,
            os.fdopen(os.open(target, os.O_TMPFILE | os.O_RDWR), "wb") as copy,
        ):
            original.write(b"0")
            original.flush()
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
    except OSError:
        return False
    return True


def clone_or_copy(source: Path, target: Path) -> None:
    """A file of its own with the same bytes, shared on disk where the file system can."""
    if not clone(source, target):
        shutil.copyfile(source, target)
