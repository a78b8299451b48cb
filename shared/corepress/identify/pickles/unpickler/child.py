"""The process in which a pickle is read: it gives up all it can before it sees a byte."""

from __future__ import annotations

import codecs
import ctypes
import gc
import json
import os
import resource
import signal
import sys

from .answer import answer

MEMORY_BYTES = 192 << 20
CPU_S = 10
_LIMITS = {
    resource.RLIMIT_DATA: MEMORY_BYTES,
    resource.RLIMIT_AS: 2 * MEMORY_BYTES,  # where RLIMIT_DATA counts less than on Linux
    resource.RLIMIT_CPU: CPU_S,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_NPROC: 0,
    resource.RLIMIT_NOFILE: 0,  # what is open stays so, and nothing more can be opened
}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(container: str) -> None:
    """Write the answer to the pickle on standard input to standard output, as JSON."""
    give_up()
    gc.disable()  # all that a pickle makes is needed to the end
    try:
        text = json.dumps(answer(sys.stdin.buffer.read(), container), ensure_ascii=False).encode()
    except MemoryError:
        text = b'{"refused": "exhausted", "reason": "it takes too much memory", "ran_out": false}'
    sys.stdout.buffer.write(text)
    sys.stdout.flush()
    os._exit(0)  # without taking apart what the pickle made


def give_up() -> None:
    """Die with the parent, and have no more memory, time, files, sockets or processes.

    Where the kernel can't see to the first, the process ends at its time limit all the same.
    """
    codecs.lookup("raw-unicode-escape")  # the oldest pickles need it: it can't be imported later
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for kind, limit in _LIMITS.items():
        _, hard = resource.getrlimit(kind)
        lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lowest, lowest))
