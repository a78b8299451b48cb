"""How much memory this process holds, and how much it ever held."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """The resident set of this process now."""
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Start measuring the peak anew where the system can (Linux; proc(5), ``clear_refs``)."""
    with suppress(OSError):
        _CLEAR_REFS.write_text("5")


def peak_bytes() -> int:
    """The largest resident set since `reset_peak`, or since the process began."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
