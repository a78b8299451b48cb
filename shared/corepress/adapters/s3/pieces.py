"""Reading on and on, over several connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

PIECE_BYTES = 8 << 20
_CONNECTIONS = 4


def in_pieces(read: Callable[[int, int], bytes], start: int, end: int) -> Iterator[bytes]:
    """The bytes of a range in order, read ahead of whoever takes them.

    At most `_CONNECTIONS` pieces and one wait to be taken, so memory stays flat.

    Args:
        read: takes offset and size, from several threads at once; what it raises is raised here.
        start: where to begin.
        end: where to stop.
    """
    pending: deque[Future[bytes]] = deque()
    pool = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="read in pieces")
    try:
        for offset in range(start, end, PIECE_BYTES):
            pending.append(pool.submit(read, offset, min(PIECE_BYTES, end - offset)))
            if len(pending) > _CONNECTIONS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
