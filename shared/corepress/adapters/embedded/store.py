"""A folder as the store.

Documents and blobs are files under their keys. Every file is written beside its place and renamed
(or hard-linked, where it must not replace another), so a reader never sees half of one. Nothing is
forced to the disk: after a power cut a blob may be short, which its recorded size shows.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corepress.adapters.embedded.clone import clone
from corepress.domain.artifact import Blob, Digest
from corepress.domain.errors import CorepressError, DiskFull, StoreUnavailable
from corepress.domain.stage import Handle
from corepress.ports.store import BlobNotFound, DocumentNotFound
from corepress.runtime.files import LocalFile

_CHUNK_BYTES = 8 << 20


class FolderStore:
    """A `corepress.ports.store.Store` in a folder of the local file system."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        with _translated(self.root):
            for folder in ("actions", "blobs", "jobs", "leases", "tmp"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> bytes:
        """The document at ``key``."""
        with _translated(self.root):
            try:
                return self._path(key).read_bytes()
            except FileNotFoundError:
                raise DocumentNotFound(key) from None

    def put(self, key: str, data: bytes) -> None:
        """Write a document, replacing an older one."""
        with _translated(self.root), self._written(data) as temporary:
            temporary.replace(self._place(key))

    def create(self, key: str, data: bytes) -> bool:
        """Write a document unless the key is taken."""
        with _translated(self.root), self._written(data) as temporary:
            try:
                os.link(temporary, self._place(key))
            except FileExistsError:
                return False
        return True

    def delete(self, key: str) -> None:
        """Remove a document."""
        with _translated(self.root):
            self._path(key).unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with ``prefix``, sorted."""
        folder = self.root / prefix.rpartition("/")[0]
        found = (
            path.relative_to(self.root).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        yield from sorted(key for key in found if key.startswith(prefix))

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there, whole; refreshes its time of last use."""
        path = self._blob_path(digest)
        if not path.is_file() or not _unchanged(path):
            return False
        if not _guard(path).exists():
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return True

    def open(self, blob: Blob) -> Handle:
        """The blob's content."""
        path = self._blob_path(blob.digest)
        if not path.is_file() or not _unchanged(path) or path.stat().st_size != blob.size_bytes:
            raise BlobNotFound(blob.digest)
        return LocalFile(path)

    @contextmanager
    def writer(self, digest: Digest | None = None) -> Iterator[FolderBlobWriter]:  # noqa: ARG002
        """A new blob as a stream."""
        temporary = self._temporary()
        with _translated(self.root):
            writer = FolderBlobWriter(self, temporary)
            try:
                yield writer
            finally:
                writer.close()
                temporary.unlink(missing_ok=True)

    def add(self, path: Path) -> Blob:
        """Take a finished local file over under its sha256."""
        with _translated(self.root):
            with path.open("rb") as file:
                digest = Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())
            if path.stat().st_dev != self.root.stat().st_dev:
                shutil.move(path, path := self._temporary())
            return self.place(path, digest)

    def adopt(self, path: Path, digest: Digest) -> Blob:
        """Have a user's file as a blob: a reflink, else a hard link, else a copy.

        A hard link shares its bytes with the user's file, so size and modification time are
        recorded beside it: once they change, the blob counts as gone.
        """
        with _translated(self.root):
            stat = path.stat()
            target = self._blob_path(digest)
            temporary = self._temporary()
            try:
                if clone(path, temporary):
                    return self.place(temporary, digest)
                try:
                    os.link(path, temporary)
                except OSError:  # another file system, or one without hard links
                    shutil.copyfile(path, temporary)
                    return self.place(temporary, digest)
                guard = _guard(target).relative_to(self.root).as_posix()
                self.put(guard, _stamp(stat).encode())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            return Blob(digest, stat.st_size)

    def place(self, path: Path, digest: Digest) -> Blob:
        """Move a file, finished and on this file system, to its blob's place."""
        size_bytes = path.stat().st_size
        target = self._blob_path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o444)
        _guard(target).unlink(missing_ok=True)
        path.replace(target)
        return Blob(digest, size_bytes)

    def _temporary(self) -> Path:
        return self.root / "tmp" / secrets.token_hex(8)

    def _path(self, key: str) -> Path:
        return self.root / key

    def _place(self, key: str) -> Path:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        temporary = self._temporary()
        try:
            temporary.write_bytes(data)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _blob_path(self, digest: Digest) -> Path:
        kind, _, value = digest.partition(":")
        return self.root / "blobs" / kind / value[:2] / value


class FolderBlobWriter:
    """A blob being written; its sha256 is computed as bytes pass."""

    def __init__(self, store: FolderStore, temporary: Path) -> None:
        self._store = store
        self._temporary = temporary
        self._file = temporary.open("wb")
        self._hasher = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._hasher.update(data)
        self._file.write(data)

    def copy_range(self, source: Handle, offset: int, size_bytes: int) -> None:
        """Append a range of a stored file."""
        while size_bytes:
            chunk = source.read(offset, min(size_bytes, _CHUNK_BYTES))
            self.write(chunk)
            offset += len(chunk)
            size_bytes -= len(chunk)

    def commit(self, digest: Digest | None = None) -> Blob:
        """Make the file durable under ``digest``, by default its sha256."""
        self._file.close()
        return self._store.place(
            self._temporary, digest or Digest("sha256:" + self._hasher.hexdigest())
        )

    def close(self) -> None:
        """Close the file; what was not committed is discarded by the store."""
        self._file.close()


def _guard(blob: Path) -> Path:
    return blob.with_name(blob.name + ".linked")


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _unchanged(blob: Path) -> bool:
    guard = _guard(blob)
    return not guard.exists() or guard.read_text() == _stamp(blob.stat())


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    """Operating-system errors as coded errors."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, root) from error


def storage_error(error: OSError, root: Path) -> CorepressError:
    """What an operating-system error while writing below ``root`` means to the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"no space left while writing below {root}",
            hint="free some space, or choose another disk with --state and --out",
            path=str(root),
        )
    return StoreUnavailable(f"{error.strerror or error}: {error.filename or root}", path=str(root))
