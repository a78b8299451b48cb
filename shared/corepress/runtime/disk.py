"""Whether there is room on a disk, asked before anything is written to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from corepress.domain.errors import DiskFull


def refuse_small_disk(needed: Mapping[Path, int], hint: str) -> None:
    """Refuse what will not fit.

    Args:
        needed: bytes by the folder that they go to, which may not be there yet; folders on the
            same disk share what is free.
        hint: what to do about it.

    Raises:
        DiskFull: says how much is needed, how much is free, and where.
    """
    by_disk: dict[int, tuple[Path, int]] = {}
    for folder, size_bytes in needed.items():
        present = existing(folder)
        device = present.stat().st_dev
        first, others_bytes = by_disk.get(device, (present, 0))
        by_disk[device] = first, others_bytes + size_bytes
    for folder, size_bytes in by_disk.values():
        status = os.statvfs(folder)
        free_bytes = status.f_bavail * status.f_frsize
        if size_bytes > free_bytes and status.f_blocks:  # what has no blocks is no disk
            raise DiskFull(
                f"{size_bytes:,} bytes are needed on the disk of {folder}, {free_bytes:,} are free",
                hint=hint,
                path=str(folder),
            )


def existing(folder: Path) -> Path:
    """The folder, or the closest one above it that is there."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.is_dir())
