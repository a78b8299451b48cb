"""The workspace of a stage that runs on a store."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from corepress.domain.artifact import Blob, Digest
from corepress.domain.errors import StoreUnavailable
from corepress.domain.stage import BlobWriter, Handle, UnfinishedBlob
from corepress.ports.store import BlobNotFound, Store

Report = Callable[[str, float, float, str], None]
"""Takes activity, done, total and unit."""

_REPORT_INTERVAL_S = 0.1


class StoreWorkspace:
    """A `corepress.domain.stage.Workspace` whose files live in a store."""

    def __init__(self, store: Store, scratch: Path, report: Report) -> None:
        self._store = store
        self._scratch = scratch
        self._report = report
        self._reported: tuple[str, float] = ("", 0.0)

    @property
    def scratch(self) -> Path:
        """An empty folder of its own, deleted afterwards."""
        return self._scratch

    def open(self, blob: Blob) -> Handle:
        """The stored file of an input.

        Raises:
            StoreUnavailable: it is no longer there.
        """
        try:
            return self._store.open(blob)
        except BlobNotFound as error:
            raise StoreUnavailable(
                f"the store no longer has {blob.digest}, an input of this step",
                hint="start the job again: what is missing is made anew",
            ) from error

    def has(self, blob: Blob) -> bool:
        """Whether the store holds this file already."""
        return self._store.has(blob)

    def keep(self, path: Path) -> Blob:
        """Hand a finished local file over to the store."""
        return self._store.add(path)

    def keep_bytes(self, data: bytes) -> Blob:
        """Hand a small document over to the store."""
        with self._store.writer() as writer:
            writer.write(data)
            return writer.commit()

    def adopt(self, path: Path, digest: Digest) -> Blob:
        """Let the store have a user's own file at least cost."""
        return self._store.adopt(path, digest)

    @property
    def identifies_weights(self) -> bool:
        """Yes: equal weights are to be one file, whatever they came in."""
        return True

    @property
    def copies_ranges(self) -> bool:
        """Whether the store copies ranges on its side."""
        return self._store.copies_ranges

    def can_copy(self, source: Handle) -> bool:
        """Whether the store copies ranges of this file on its side."""
        return self._store.can_copy(source)

    def create(self, digest: Digest | None = None) -> AbstractContextManager[BlobWriter]:
        """A file written as a stream."""
        return self._store.writer(digest)

    def resume(
        self, name: str, digest: Digest | None = None
    ) -> AbstractContextManager[UnfinishedBlob]:
        """A file written as a stream, from where an earlier writer of that name was cut off."""
        return self._store.resume(name, digest)

    def progress(self, activity: str, done: float, total: float, unit: str = "B") -> None:
        """Pass a report on, unless the same activity reported a moment ago."""
        last_activity, last_s = self._reported
        now_s = time.monotonic()
        if activity == last_activity and done < total and now_s - last_s < _REPORT_INTERVAL_S:
            return
        self._reported = (activity, now_s)
        self._report(activity, done, total, unit)
