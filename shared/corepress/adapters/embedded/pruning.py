"""Keeping the embedded store within its size: what was used longest ago goes first."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

_JOB_LIFETIME_S = 7 * 24 * 3600.0


def prune(root: Path, limit_bytes: int) -> int:
    """Forget blobs until the rest fit, and the records of jobs older than a week.

    An action whose blobs are gone counts as not done. The caller holds the store's lock, so
    nothing is in use.

    Returns:
        The bytes forgotten.
    """
    blobs = sorted(
        ((path, path.stat()) for path in (root / "blobs").rglob("*") if path.is_file()),
        key=lambda found: found[1].st_atime_ns,
    )
    excess_bytes = sum(stat.st_size for _, stat in blobs) - limit_bytes
    forgotten_bytes = 0
    for path, stat in blobs:
        if forgotten_bytes >= excess_bytes:
            break
        path.unlink()
        forgotten_bytes += stat.st_size
    for job in (root / "jobs").iterdir():
        if time.time() - job.stat().st_mtime > _JOB_LIFETIME_S:
            shutil.rmtree(job)
    return forgotten_bytes


def clear_leftovers(root: Path) -> None:
    """Remove what a killed process left: its unfinished files and its leases.

    The caller holds the store's lock, so no lease can have a living owner.
    """
    for folder in ("tmp", "leases"):
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir()
