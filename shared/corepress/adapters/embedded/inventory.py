"""What a folder that is a store holds and since when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from corepress.adapters.embedded.pruning import forget, stored_blobs
from corepress.domain.artifact import Digest
from corepress.ports.inventory import Kept


class FolderInventory:
    """A `corepress.ports.inventory.Inventory` of a folder, of which the caller holds the lock."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def now_s(self) -> float:
        """The machine's time."""
        return time.time()

    def blobs(self) -> Iterator[Kept]:
        """All blobs."""
        for blob in stored_blobs(self._root / "blobs"):
            digest = f"{blob.path.parent.parent.name}:{blob.path.name}"
            yield Kept(digest, blob.size_bytes, blob.used_ns / 1e9)

    def documents(self, prefix: str) -> Iterator[Kept]:
        """The documents whose keys begin with ``prefix``, which ends in a slash."""
        for path in (self._root / prefix).rglob("*"):
            if path.is_file():
                stat = path.stat()
                yield Kept(path.relative_to(self._root).as_posix(), stat.st_size, stat.st_mtime)

    def is_used_since(self, digest: Digest, moment_s: float) -> bool:  # noqa: ARG002
        """Whether a blob was used: never, while the caller holds the lock."""
        return False

    def forget(self, digest: Digest) -> None:
        """Remove a blob."""
        kind, _, value = digest.partition(":")
        forget(self._root / "blobs" / kind / value[:2] / value)

    def left_over(self, before_s: float) -> Iterator[Kept]:
        """Unfinished files from before that moment."""
        for kept in self.documents("tmp/"):
            if kept.used_s < before_s:
                yield kept

    def discard(self, left_over: Kept) -> None:
        """Remove an unfinished file."""
        (self._root / left_over.name).unlink(missing_ok=True)
