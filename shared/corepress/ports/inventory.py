"""What a store holds and since when, for whoever clears it up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from corepress.domain.artifact import Digest


@dataclass(frozen=True, slots=True)
class Kept:
    """A blob or a document; times are seconds since 1970 by the store's own clock.

    Attributes:
        name: a blob's digest, a document's key.
        used_s: when it was last written or, a blob, used; that may be up to an hour early.
    """

    name: str
    size_bytes: int
    used_s: float


class Inventory(Protocol):
    """All that a store holds. Every method may raise `StoreUnavailable`."""

    def now_s(self) -> float:
        """The time by the store's own clock, which no host's need agree with."""
        ...

    def blobs(self) -> Iterator[Kept]:
        """All blobs."""
        ...

    def documents(self, prefix: str) -> Iterator[Kept]:
        """The documents whose keys begin with ``prefix``."""
        ...

    def is_used_since(self, digest: Digest, moment_s: float) -> bool:
        """Whether a blob was written or used at that moment or later."""
        ...

    def forget(self, digest: Digest) -> None:
        """Remove a blob; none there is no error."""
        ...

    def left_over(self, before_s: float) -> Iterator[Kept]:
        """What was begun before that moment and never came to an end, such as uploads."""
        ...

    def discard(self, left_over: Kept) -> None:
        """Remove what was left over."""
        ...
