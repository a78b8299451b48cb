"""The folder of downloads, kept within its size: what was used longest ago goes first."""

from __future__ import annotations

from pathlib import Path


def prune_cache(folder: Path, limit_bytes: int) -> None:
    """Remove downloads until the rest fit; nobody may be using them."""
    if not folder.exists():
        return
    found = [(path, path.stat()) for path in folder.iterdir()]
    excess_bytes = sum(status.st_size for _, status in found) - limit_bytes
    for path, status in sorted(found, key=lambda each: each[1].st_atime_ns):
        if excess_bytes <= 0:
            break
        path.unlink()
        excess_bytes -= status.st_size
