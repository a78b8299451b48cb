"""A lane: calls made one after another in a thread of its own.

Hashing, casting, reading and writing of large buffers all release the interpreter lock, so a
few lanes behind each other keep several cores and the disk busy with plain functions.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Call = Callable[[], object]


class Lane:
    """Runs submitted calls in order; leaving the context waits for them.

    At most ``depth`` calls wait, so what they hold stays bounded. The first exception of a call
    stops the lane: later calls are dropped and the exception reaches the next `submit` or the end
    of the context. Where the context is left by an exception, waiting calls are dropped.
    """

    def __init__(self, name: str, depth: int = 8) -> None:
        self._calls: queue.Queue[Call | None] = queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def submit(self, call: Call) -> None:
        """Queue a call, waiting for a free place.

        Raises:
            BaseException: what an earlier call raised.
        """
        if self._error is not None:
            raise self._error
        self._calls.put(call)

    def wait(self) -> None:
        """Wait until everything submitted so far has run.

        Raises:
            BaseException: what a call raised.
        """
        self._calls.join()
        if self._error is not None:
            raise self._error

    @property
    def abandoned(self) -> bool:
        """Whether the context was left by an exception, so that a long call had better end."""
        return self._abandoned.is_set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._abandoned.set()
        self._calls.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._error is None and not self._abandoned.is_set():
                try:
                    call()
                except BaseException as error:  # noqa: BLE001  raised again where calls are submitted
                    self._error = error
            self._calls.task_done()
        self._calls.task_done()
