"""Many small calls to a store at once, with progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_AT_ONCE = 16

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and how much there is."""


def call_each(progress: Progress, what: str, items: Sequence[T], call: Callable[[T], R]) -> list[R]:
    """What ``call`` gives for each item, in their order."""
    results = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for done, result in enumerate(pool.map(call, items), start=1):
            results.append(result)
            progress(what, done, len(items))
    return results
