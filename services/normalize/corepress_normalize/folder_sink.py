"""Where `corepress normalize` writes: nameless files in a scratch folder, named at the end."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from corepress.domain.artifact import Blob, Digest
from corepress.domain.stage import Handle
from corepress.runtime.clone import clone_over
from corepress.runtime.direct_file import DirectFile
from corepress.runtime.lanes import Lane
from corepress_normalize.engine import PIECE_BYTES
from corepress_normalize.hashed_file import HashedFile

Progress = Callable[[str, float, float, str], None]
"""Takes activity, done, total and unit."""


class FolderSink:
    """A `corepress_normalize.engine.Sink` in a folder, whose files are hashed as bytes pass."""

    def __init__(self, scratch: Path, report: Progress) -> None:
        self._scratch = scratch
        self._report = report
        self._paths: dict[Digest, Path] = {}
        self._placed: set[Digest] = set()
        self._writers = 0

    def has(self, blob: Blob) -> bool:
        """Whether this file is there already."""
        return blob.digest in self._paths

    @property
    def identifies_weights(self) -> bool:
        """No: one sum of all bytes less."""
        return False

    @property
    def copies_ranges(self) -> bool:
        """No: everything is read and written here."""
        return False

    @contextmanager
    def create(self, digest: Digest | None = None) -> Iterator[_Writer]:  # noqa: ARG002
        """A file written as a stream."""
        self._writers += 1
        path = self._scratch / str(self._writers)
        with closing(DirectFile(path)) as file, Lane("hash file") as lane:
            writer = _Writer(path, file, lane)
            yield writer
        if writer.digest is None:
            writer.path.unlink()
        else:
            self._paths[writer.digest] = writer.path

    def keep_bytes(self, data: bytes) -> Blob:
        """A small file."""
        with self.create() as writer:
            writer.write(data)
            return writer.commit()

    def progress(self, activity: str, done: float, total: float, unit: str = "B") -> None:
        """Report how far an activity has come."""
        self._report(activity, done, total, unit)

    def place(self, digest: Digest, target: Path) -> None:
        """Give a file its name; a file with several names is copied."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if digest in self._placed:
            shutil.copyfile(self._paths[digest], target)
        else:
            self._paths[digest] = self._paths[digest].rename(target)
            self._placed.add(digest)


class _Writer:
    """A `corepress.domain.stage.BlobWriter` of one file, which is hashed in a lane of its own."""

    def __init__(self, path: Path, file: DirectFile, lane: Lane) -> None:
        self.path = path
        self.digest: Digest | None = None
        self._file = file
        self._lane = lane
        self._hasher = hashlib.sha256()
        self._size_bytes = 0
        self._original: HashedFile | None = None

    def clone(self, source: Handle) -> bool:
        """Be a reflink of a source's file, whose sha256 is found out while that is read."""
        if not isinstance(source, HashedFile) or not clone_over(source.local_path(), self.path):
            return False
        self._original = source
        return True

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes, which must not change afterwards."""
        self._lane.submit(partial(self._hasher.update, data))
        self._file.write(data)
        self._size_bytes += len(data)

    def copy_range(self, source: Handle, offset: int, size_bytes: int) -> None:
        """Append a range of a stored file."""
        end = offset + size_bytes
        for start in range(offset, end, PIECE_BYTES):
            self.write(source.read(start, min(PIECE_BYTES, end - start)))

    def commit(self, digest: Digest | None = None) -> Blob:
        """Finish the file under a digest, by default its sha256."""
        if self._original is not None:
            original = self._original.blob()
            self.digest = digest or original.digest
            return Blob(self.digest, original.size_bytes)
        self._lane.wait()
        self.digest = digest or Digest("sha256:" + self._hasher.hexdigest())
        return Blob(self.digest, self._size_bytes)
