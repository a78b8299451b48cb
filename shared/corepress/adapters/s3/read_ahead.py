"""Reading objects in small steps, fetched in large ones ahead of the reader."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

Fetch = Callable[[int, int], bytes]
"""Takes offset and size."""

_WINDOW_BYTES = 4 << 20
_AHEAD = 3
_KEPT_WINDOWS = 16  # of all objects together


class ReadAhead:
    """Windows of objects that somebody reads on from where the last read ended.

    Any other read gets just the bytes that it asks for, since a header may be all that is wanted.
    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._ends: dict[str, int] = {}
        self._windows: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()
        self._pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="read ahead")

    def read(
        self, key: str, object_bytes: int, offset: int, size_bytes: int, fetch: Fetch
    ) -> bytes:
        """Exactly ``size_bytes`` bytes from ``offset`` of an object.

        Args:
            key: of the object.
            object_bytes: its size.
            offset: where to begin.
            size_bytes: how much to read.
            fetch: reads a range from the server; what it raises reaches the caller.
        """
        first, last = offset // _WINDOW_BYTES, (offset + size_bytes - 1) // _WINDOW_BYTES
        with self._lock:
            continues = self._ends.get(key) == offset
            self._ends[key] = offset + size_bytes
            if size_bytes >= _WINDOW_BYTES or not (continues or (key, first) in self._windows):
                windows = []
            else:
                ahead = (object_bytes - 1) // _WINDOW_BYTES
                wanted = range(first, min(last + _AHEAD, ahead) + 1)
                windows = [self._window(key, object_bytes, n, fetch) for n in wanted]
        if not windows:
            return fetch(offset, size_bytes)
        try:
            data = b"".join(window.result() for window in windows[: last - first + 1])
        except BaseException:
            self._forget(key)
            raise
        start = offset - first * _WINDOW_BYTES
        return data[start : start + size_bytes]

    def _window(self, key: str, object_bytes: int, number: int, fetch: Fetch) -> Future[bytes]:
        place = key, number
        if place not in self._windows:
            start = number * _WINDOW_BYTES
            size_bytes = min(_WINDOW_BYTES, object_bytes - start)
            self._windows[place] = self._pool.submit(fetch, start, size_bytes)
            if len(self._windows) > _KEPT_WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(place)
        return self._windows[place]

    def _forget(self, key: str) -> None:
        with self._lock:
            for place in [place for place in self._windows if place[0] == key]:
                del self._windows[place]
