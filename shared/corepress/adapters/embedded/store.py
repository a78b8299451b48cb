"""A folder as the store.

Documents and blobs are files under their keys. Every file is written beside its place and renamed
(or hard-linked, where it must not replace another), so a reader never sees half of one. Nothing is
forced to the disk: after a power cut a blob may be short, which its recorded size shows.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from corepress.adapters.embedded.linked import (
    LinkedFile,
    guard_path,
    is_unchanged,
    recorded_stamp,
    stamp,
)
from corepress.domain.artifact import Blob, Digest
from corepress.domain.errors import (
    CorepressError,
    DiskFull,
    PermanentError,
    SourceUnavailable,
    StoreUnavailable,
)
from corepress.domain.stage import Handle
from corepress.ports.store import BlobNotFound, DocumentNotFound
from corepress.runtime.clone import clone, clone_over
from corepress.runtime.direct_file import BLOCK_BYTES, DirectFile
from corepress.runtime.failures import is_disk_full
from corepress.runtime.files import LocalFile

_CHUNK_BYTES = 8 << 20


class FolderStore:
    """A `corepress.ports.store.Store` in a folder of the local file system."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        with _translated(self.root):
            for folder in ("actions", "blobs", "jobs", "leases", "partial", "tmp"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)

    @property
    def copies_ranges(self) -> bool:
        """No: a file's ranges are read and written."""
        return False

    def get(self, key: str) -> bytes:
        """The document at ``key``."""
        with _translated(self.root):
            try:
                return self._path(key).read_bytes()
            except FileNotFoundError:
                raise DocumentNotFound(key) from None

    def age_s(self, key: str) -> float:
        """How long ago the document at ``key`` was written."""
        with _translated(self.root):
            try:
                return time.time() - self._path(key).stat().st_mtime
            except FileNotFoundError:
                raise DocumentNotFound(key) from None

    def put(self, key: str, data: bytes) -> None:
        """Write a document, replacing an older one."""
        with _translated(self.root), self._written(data) as temporary:
            temporary.replace(self._made(key))

    def create(self, key: str, data: bytes) -> bool:
        """Write a document unless the key is taken."""
        with _translated(self.root), self._written(data) as temporary:
            try:
                os.link(temporary, self._made(key))
            except FileExistsError:
                return False
        return True

    def delete(self, key: str) -> None:
        """Remove a document."""
        with _translated(self.root):
            self._path(key).unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with ``prefix``, sorted."""
        folder = self._path(prefix.rpartition("/")[0])
        with _translated(self.root):
            found = (p.relative_to(self.root).as_posix() for p in folder.rglob("*") if p.is_file())
            keys = sorted(key for key in found if key.startswith(prefix))
        yield from keys

    def has(self, blob: Blob) -> bool:
        """Whether the blob is there, whole; refreshes its time of last use."""
        path = self._blob_path(blob.digest)
        with _translated(self.root):
            if not _is_whole(path, blob.size_bytes):
                return False
            guard = guard_path(path)
            used = guard if guard.exists() else path  # the user's own file keeps its times
            os.utime(used, ns=(time.time_ns(), used.stat().st_mtime_ns))
        return True

    def open(self, blob: Blob) -> Handle:
        """The blob's content."""
        path = self._blob_path(blob.digest)
        with _translated(self.root):
            if not _is_whole(path, blob.size_bytes):
                raise BlobNotFound(blob.digest)
            expected = recorded_stamp(path)
        return LocalFile(path) if expected is None else LinkedFile(path, expected)

    def can_copy(self, source: Handle) -> bool:  # noqa: ARG002
        """No: a file's ranges are read and written."""
        return False

    @contextmanager
    def writer(self, digest: Digest | None = None) -> Iterator[FolderBlobWriter]:  # noqa: ARG002
        """A new blob as a stream."""
        temporary = self._temporary()
        writer = FolderBlobWriter(self, temporary)
        try:
            yield writer
        finally:
            writer.close()
            temporary.unlink(missing_ok=True)

    @contextmanager
    def resume(
        self,
        name: str,
        digest: Digest | None = None,  # noqa: ARG002
    ) -> Iterator[FolderBlobWriter]:
        """A new blob as a stream, from the last whole block of an earlier one of that name."""
        path = self.root / "partial" / name
        with ExitStack() as held:
            with _translated(self.root):
                is_ours = name and _lock(path, held)
            if not is_ours:
                yield held.enter_context(self.writer())
                return
            writer = FolderBlobWriter(self, path, path.stat().st_size // BLOCK_BYTES * BLOCK_BYTES)
            keep = False
            try:
                yield writer
            except BaseException as error:
                keep = not isinstance(error, PermanentError | DiskFull)
                raise
            finally:
                writer.close()
                if not keep:
                    path.unlink(missing_ok=True)

    def add(self, path: Path) -> Blob:
        """Take a finished local file over under its sha256."""
        with _translated(self.root):
            with path.open("rb") as file:
                digest = Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())
            if path.is_symlink() or path.stat().st_dev != self.root.stat().st_dev:
                temporary = self._temporary()
                shutil.copyfile(path, temporary)
                path.unlink()
                path = temporary
            return self.place(path, digest)

    def adopt(self, path: Path, digest: Digest) -> Blob:
        """Have a user's file as a blob: a reflink, else a hard link, else a copy."""
        temporary = self._temporary()
        with _translated(self.root):
            path = path.resolve()  # a hard link to a symbolic one would be one too
            before = path.stat()
            blob = Blob(digest, before.st_size)
            if self.has(blob):
                return blob
            try:
                is_link = _share(path, temporary)
                if stamp(path.stat()) != stamp(before):
                    raise SourceUnavailable(f"{path} was changed while it was read", path=str(path))
                return self._place(temporary, digest, stamp(before) if is_link else None)
            finally:
                temporary.unlink(missing_ok=True)

    def place(self, path: Path, digest: Digest) -> Blob:
        """Move a file, finished and on this file system, to its blob's place."""
        with _translated(self.root):
            return self._place(path, digest, linked=None)

    def _place(self, path: Path, digest: Digest, linked: str | None) -> Blob:
        """Move a file to its blob's place, with its stamp where it is a link.

        Guard and file cannot be replaced at once: a lock keeps others from doing so in between.
        """
        blob, target = Blob(digest, path.stat().st_size), self._blob_path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        with (self.root / "blobs.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_whole(target, blob.size_bytes):
                path.unlink()
                return blob
            target.unlink(missing_ok=True)
            if linked is None:
                path.chmod(0o444)
                guard_path(target).unlink(missing_ok=True)
            else:
                guard_path(target).write_text(linked)
            path.rename(target)
        return blob

    def _temporary(self) -> Path:
        return self.root / "tmp" / secrets.token_hex(8)

    def _path(self, key: str) -> Path:
        return self.root / key

    def _made(self, key: str) -> Path:
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
    """A blob being written, which is hashed where no digest is given to its commit."""

    def __init__(self, store: FolderStore, temporary: Path, kept_bytes: int = 0) -> None:
        self._store = store
        self._temporary = temporary
        self._kept_bytes = kept_bytes
        with _translated(store.root):
            self._file = DirectFile(temporary, kept_bytes)

    def kept(self) -> Iterator[bytes]:
        """What the file begins with."""
        file = LocalFile(self._temporary)
        for start in range(0, self._kept_bytes, _CHUNK_BYTES):
            yield file.read(start, min(_CHUNK_BYTES, self._kept_bytes - start))

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        with _translated(self._store.root):
            self._file.write(data)

    def clone(self, source: Handle) -> bool:
        """Be a reflink of a stored file, where the file system has them."""
        with _translated(self._store.root):
            cloned = clone_over(source.local_path(), self._temporary)
        source.read(0, 0)  # a linked file says where it was changed meanwhile
        return cloned

    def copy_range(self, source: Handle, offset: int, size_bytes: int) -> None:
        """Append a range of a stored file."""
        while size_bytes:
            chunk = source.read(offset, min(size_bytes, _CHUNK_BYTES))
            self.write(chunk)
            offset += len(chunk)
            size_bytes -= len(chunk)

    def commit(self, digest: Digest | None = None) -> Blob:
        """Make the file durable under ``digest``, by default its sha256."""
        with _translated(self._store.root):
            self._file.close()
        if digest is None:
            return self._store.add(self._temporary)
        return self._store.place(self._temporary, digest)

    def close(self) -> None:
        """Close the file; what was not committed is discarded by the store."""
        with suppress(OSError):  # what could not be written is not wanted any more
            self._file.close()


def _lock(path: Path, held: ExitStack) -> bool:
    """Take a file for this process until the stack ends; False where another has it."""
    file = held.enter_context(path.open("ab"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # who had it may have moved it away before it was locked here
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _share(source: Path, target: Path) -> bool:
    """Have a file's bytes at another path at least cost; whether that is a hard link."""
    if clone(source, target):
        return False
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
        return False
    return True


def _is_whole(path: Path, size_bytes: int) -> bool:
    """Whether a blob is there with all its bytes, and unchanged if it is a link."""
    try:
        return path.stat().st_size == size_bytes and is_unchanged(path)
    except FileNotFoundError:
        return False


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    """Operating-system errors as coded errors."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, root) from error


def storage_error(error: OSError, root: Path) -> CorepressError:
    """What an operating-system error while writing below ``root`` means to the user."""
    if is_disk_full(error):
        return DiskFull(
            f"no space left while writing below {root}",
            hint="free some space, or choose another disk with --state and --out",
            path=str(root),
        )
    return StoreUnavailable(
        f"{error.strerror or error}: {error.filename or root}",
        hint="the state folder needs a file system with hard links, writable for this user",
        path=str(root),
    )
