"""The process in which a pickle is read: it gives up all it can before it sees a byte."""

from __future__ import annotations

import codecs
import gc
import json
import os
import resource
import sys

from .answer import answer

MEMORY_BYTES = 256 << 20
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


def main(container: str) -> None:
    """Write the answer to the pickle on standard input to standard output, as JSON.

    The process outlives its parent by no more than its time limit: without the parent its input
    ends, and its output has no reader.
    """
    # the oldest pickles need this codec, which could not be imported any more
    codecs.lookup("raw-unicode-escape")
    gc.disable()  # all that a pickle makes is needed to the end
    for kind, limit in _LIMITS.items():
        _, hard = resource.getrlimit(kind)
        lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lowest, lowest))
    try:
        text = json.dumps(answer(sys.stdin.buffer.read(), container), ensure_ascii=False).encode()
    except MemoryError:
        text = b'{"refused": "exhausted", "reason": "it needs too much memory", "ran_out": false}'
    sys.stdout.buffer.write(text)
    sys.stdout.flush()
    os._exit(0)  # without taking apart what the pickle made
