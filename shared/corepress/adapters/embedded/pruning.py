"""Keeping the embedded store within its size: what was used longest ago goes first."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corepress.adapters.embedded.linked import guard_path, is_guard, is_unchanged

_JOB_LIFETIME_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class _Kept:
    """A blob: when it was last used, and what forgetting it would free."""

    path: Path
    used_ns: int
    size_bytes: int


def prune(root: Path, limit_bytes: int) -> int:
    """Forget blobs until the rest fit, and the records of jobs older than a week.

    An action whose blobs are gone counts as not done. A user's file that is linked to takes no
    room as long as the user has it. The caller holds the store's lock, so nothing is in use.

    Returns:
        The bytes forgotten.
    """
    blobs = sorted(_blobs(root / "blobs"), key=lambda blob: blob.used_ns)
    excess_bytes = sum(blob.size_bytes for blob in blobs) - limit_bytes
    forgotten_bytes = 0
    for blob in blobs:
        if forgotten_bytes >= excess_bytes:
            break
        if blob.size_bytes:
            _forget(blob.path)
            forgotten_bytes += blob.size_bytes
    for job in (root / "jobs").iterdir():
        if time.time() - job.stat().st_mtime > _JOB_LIFETIME_S:
            shutil.rmtree(job)
            for entry in (root / "index" / "entries").glob(f"{job.name}.*"):
                entry.unlink()
    return forgotten_bytes


def clear_leftovers(root: Path) -> None:
    """Remove what a killed process left: its unfinished files and its leases.

    The caller holds the store's lock, so no lease can have a living owner.
    """
    for folder in ("tmp", "leases"):
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir(exist_ok=True)


def _blobs(folder: Path) -> Iterator[_Kept]:
    """The blobs; those that count as gone are removed on the way."""
    for path in folder.rglob("*"):
        if not path.is_file() or is_guard(path):
            continue
        if not is_unchanged(path):
            _forget(path)
            continue
        stat, guard = path.stat(), guard_path(path)
        if guard.exists():
            yield _Kept(path, guard.stat().st_atime_ns, stat.st_size if stat.st_nlink == 1 else 0)
        else:
            yield _Kept(path, stat.st_atime_ns, stat.st_size)


def _forget(blob: Path) -> None:
    blob.unlink()
    guard_path(blob).unlink(missing_ok=True)  # last: a link without it could be changed unseen
