"""Keeping at it: a worker that goes on whatever store and bus do, until it is told to stop."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Protocol

from corepress.domain.errors import CorepressError, PermanentError
from corepress.ports.bus import Bus
from corepress.runtime.failures import as_coded

Connect = Callable[[], Bus]
"""Gives another client of the bus."""

Trouble = Callable[[CorepressError, float], None]
"""Takes what failed outside, and the pause before the next try in seconds."""

_LOOK_UP_EVERY_S = 1.0
"""A worker that waits for a message learns within this time that it is to stop."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class Handler(Protocol):
    """What handles deliveries of one client of the bus."""

    def step(self, timeout_s: float) -> bool:
        """Handle the next delivery; False when none came in time."""
        ...


def keep_at(
    connect: Connect,
    handler: Callable[[Bus], Handler],
    stop: threading.Event,
    trouble: Trouble,
) -> None:
    """Handle deliveries until ``stop`` is set.

    Where store or bus fail, the client of the bus is closed, so that what it had in its hands is
    delivered again, and after a pause another one is opened.

    Args:
        connect: opens a client.
        handler: makes what handles its deliveries.
        stop: is looked at between deliveries.
        trouble: is told of it.

    Raises:
        PermanentError: it never worked: an address or a password is wrong, say.
    """
    pause_s, worked = _FIRST_PAUSE_S, False
    while not stop.is_set():
        bus = connect()
        try:
            handling = handler(bus)
            while not stop.is_set():
                handling.step(_LOOK_UP_EVERY_S)
                pause_s, worked = _FIRST_PAUSE_S, True
        except Exception as error:
            coded = as_coded(error, traceback.format_exc())
            if isinstance(coded, PermanentError) and not worked:
                raise
            trouble(coded, pause_s)
        finally:
            bus.close()
        if not stop.is_set():
            stop.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
