"""A user's own files: safe listing of a checkpoint on disk, and reading by ranges."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from corepress.domain.errors import (
    AccessDenied,
    CorruptCheckpoint,
    InvalidRequest,
    SourceNotFound,
    SourceUnavailable,
    UnsafePath,
)

_AHEAD_BYTES = 8 << 20


class LocalFile:
    """A `Handle` of a file on disk, which is opened for each read and never kept open."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def size_bytes(self) -> int:
        """The file's size when it was first asked for."""
        with _readable(self._path):
            return self._path.stat().st_size

    @property
    def fingerprint(self) -> list[int]:
        """What changes when the file does: size in bytes, modification time in nanoseconds."""
        with _readable(self._path):
            status = self._path.stat()
        return [status.st_size, status.st_mtime_ns]

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` bytes from ``offset``.

        Raises:
            CorruptCheckpoint: the range leaves the file.
            SourceUnavailable: the file is gone, or its disk fails.
        """
        parts: list[bytes] = []
        missing = size_bytes
        with _readable(self._path), self._path.open("rb", buffering=0) as file:
            _read_ahead(file.fileno(), offset, size_bytes)
            while missing:
                part = os.pread(file.fileno(), missing, offset)
                if not part:
                    raise CorruptCheckpoint(
                        f"{self._path.name} ends before byte {offset + missing}",
                        path=self._path.name,
                    )
                parts.append(part)
                offset += len(part)
                missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def local_path(self) -> Path:
        """The file itself."""
        return self._path


def _read_ahead(descriptor: int, offset: int, size_bytes: int) -> None:
    """Let the disk go on while a piece is used: a file opened anew has no history to tell it.

    It is asked once for many pieces, when they cross a boundary.
    """
    if offset % _AHEAD_BYTES < size_bytes and hasattr(os, "posix_fadvise"):  # not on macOS
        start = offset + size_bytes
        os.posix_fadvise(descriptor, start, 2 * _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What the system says of a file that was there before, as a coded error."""
    try:
        yield
    except OSError as error:
        raise SourceUnavailable(
            f"{path.name} cannot be read: {error.strerror}",
            hint="check that the file is still there and its disk is well",
            path=path.name,
        ) from error


def local_path(uri: str) -> Path | None:
    """The path of a source on disk, None for any other source.

    Raises:
        InvalidRequest: it is empty, malformed, or on another host.
    """
    if "://" not in uri:
        if not uri:
            raise InvalidRequest("the path is empty", hint="name a file or folder")
        return Path(uri)
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise InvalidRequest(f"{uri}: {error}", hint="check the address", path=uri) from error
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise InvalidRequest(
            f"{uri} names a file of another host, {parts.netloc}",
            hint="three slashes lead to this host's files: file:///path",
            path=uri,
        )
    return Path(unquote(parts.path))


def on_disk(uri: str) -> Path:
    """The path of a source that must be on disk.

    Raises:
        InvalidRequest: it is elsewhere.
    """
    path = local_path(uri)
    if path is None:
        raise InvalidRequest(
            f"{uri}: normalize reads local checkpoints", hint="download it first, or use `run`"
        )
    return path


def source_files(source: Path) -> dict[str, LocalFile]:
    """The files of a checkpoint on disk by relative POSIX path; a single file under its own name.

    Of a folder: the regular files in it and in its immediate subfolders, hidden ones left out. A
    symbolic link counts as its target as long as that lies in the folder itself (or, for a
    snapshot in a Hugging Face cache, in the repository that the snapshot belongs to).

    Raises:
        SourceNotFound: there is no such file or folder.
        UnsafePath: a link leads out of the folder.
        AccessDenied: the folder or a file in it may not be read.
        InvalidRequest: a name is not UTF-8, as names in documents are.
    """
    _refuse_undecoded(str(source))
    try:
        if source.is_file():
            files = {source.name: LocalFile(source.resolve())}
        elif source.is_dir():
            root = source.resolve()
            files = dict(_folder_files(root, _trusted_root(root), depth=1))
        else:
            raise SourceNotFound(
                f"{source} is neither a file nor a folder",
                hint="check the spelling of the path",
                path=str(source),
            )
        for path, file in files.items():
            _refuse_undecoded(path)
            if not os.access(file.local_path(), os.R_OK):
                raise _denied(path)
    except PermissionError as error:
        raise _denied(str(source)) from error
    return files


def tokenizer_files(folder: Path) -> dict[str, LocalFile]:
    """The files of a tokenizer on disk: the JSON and text files in a folder.

    Raises:
        SourceNotFound, UnsafePath, AccessDenied: see `source_files`.
    """
    return {
        path: file
        for path, file in source_files(folder).items()
        if "/" not in path and path.endswith((".json", ".txt"))
    }


def _denied(path: str) -> AccessDenied:
    return AccessDenied(f"{path} may not be read", hint="change its permissions", path=path)


def _refuse_undecoded(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode(errors="backslashreplace").decode()
        raise InvalidRequest(
            f"the name {shown} is not UTF-8", hint="give it another name", path=shown
        ) from None


def _trusted_root(folder: Path) -> Path:
    # <cache>/models--owner--name/snapshots/<revision>/ links into ../../blobs/
    return folder.parent.parent if folder.parent.name == "snapshots" else folder


def _folder_files(folder: Path, trusted: Path, depth: int) -> Iterator[tuple[str, LocalFile]]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        try:
            target = entry.resolve(strict=True)
        except (OSError, RuntimeError):  # a dangling or circular link
            continue
        mode = target.stat().st_mode
        wanted = stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and depth > 0)
        if wanted and not target.is_relative_to(trusted):
            raise UnsafePath(
                f"{entry.name} is a link to {target}, outside the checkpoint's folder",
                hint="put the file itself there",
                path=entry.name,
            )
        if stat.S_ISREG(mode):
            yield entry.name, LocalFile(target)
        elif stat.S_ISDIR(mode) and depth > 0:
            for name, file in _folder_files(entry, trusted, depth - 1):
                yield f"{entry.name}/{name}", file
