"""How much memory this process may still take, and refusing what takes more.

A process is killed, not told, when its host or its control group runs out. Control groups: Linux,
``Documentation/admin-guide/cgroup-v2.rst`` and ``cgroup-v1/memory.rst``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from corepress.domain.errors import OutOfMemory

_PROCESS_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class _Files:
    """Where a version of control groups says what memory a group may have, and has."""

    limit: str
    usage: str
    reclaimable: str


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def refuse_small_memory(what: str, needed_bytes: int) -> None:
    """Refuse what will not fit.

    Args:
        what: takes the memory, for the message.
        needed_bytes: an estimate.

    Raises:
        OutOfMemory: says how much is needed and how much there is.
    """
    free_bytes = available_bytes()
    if needed_bytes > free_bytes:
        raise OutOfMemory(
            f"{what} needs about {needed_bytes:,} bytes of memory, {free_bytes:,} are available",
            hint="end other programs, raise the container's limit, or take a smaller size or "
            "batch: 1 in the recipe",
        )


def available_bytes(process_groups: Path = _PROCESS_GROUPS, mounted: Path = _MOUNTED) -> int:
    """What the host has available, or less where a control group allows less.

    Args:
        process_groups: the file that names this process's control groups.
        mounted: where control groups are mounted.
    """
    host = int(psutil.virtual_memory().available)
    return min([host, *_left_in_groups(process_groups, mounted)])


def _left_in_groups(process_groups: Path, mounted: Path) -> Iterator[int]:
    """What each limited group, from this process's own upwards, has left."""
    if not process_groups.exists():
        return
    for line in process_groups.read_text().splitlines():
        number, controllers, path = line.split(":", maxsplit=2)
        if number == "0" and not controllers:
            root, files = mounted, _V2
        elif "memory" in controllers.split(","):
            root, files = mounted / "memory", _V1
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        # in a container the path may be the host's, and the group itself what is mounted
        for each in (group, *group.parents):
            with suppress(OSError, ValueError):  # without a limit: "max", or no file
                yield _left(root / each, files)


def _left(group: Path, files: _Files) -> int:
    limit = int((group / files.limit).read_text())
    used = int((group / files.usage).read_text())
    statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return max(limit - used + int(statistics.get(files.reclaimable, 0)), 0)
