"""Names of a stranger's choosing, made fit for a message: escaped, shortened, counted."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST_NAME = 100
_NAMES_SHOWN = 4


def quote(name: str) -> str:
    """A name in quotes: control and non-ASCII characters escaped, at most 100 characters."""
    return ascii(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "...")


def listing(names: Sequence[str], at_most: int = _NAMES_SHOWN) -> str:
    """The first few names and how many more there are."""
    shown = ", ".join(quote(name) for name in names[:at_most])
    more = len(names) - at_most
    return f"{shown} and {more} more" if more > 0 else shown
