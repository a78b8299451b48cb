"""Bringing a file into the store, reading each of its bytes once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial

from corepress.domain.artifact import Blob, Digest
from corepress.domain.checkpoint import ByteSource, Tensor
from corepress.domain.errors import SourceUnavailable
from corepress.domain.source_index import IndexedFile
from corepress.domain.stage import Workspace
from corepress.runtime.files import LocalFile
from corepress.runtime.lanes import Lane
from corepress_fetch.passage import FilePassage
from corepress_fetch.remote_file import RemoteFile, hold_to_digest, version_name

_PIECE_BYTES = 1 << 20


def bring_local(
    path: str, file: LocalFile, tensors: Iterable[Tensor], workspace: Workspace
) -> tuple[Blob, IndexedFile]:
    """Let the store have a file on disk, which is hashed and not copied where that can be helped.

    Raises:
        SourceUnavailable: the file was changed meanwhile.
    """
    before = file.fingerprint
    with FilePassage(tensors) as passage:
        _read(file, _reported(path, file, passage, workspace))
    if file.fingerprint != before:
        raise SourceUnavailable(f"{path} was changed while it was read", path=path)
    return workspace.adopt(file.local_path(), passage.digest), passage.indexed()


def bring_remote(
    path: str, file: RemoteFile, tensors: Collection[Tensor], workspace: Workspace
) -> tuple[Blob, IndexedFile]:
    """Let the store have a file on a server, unless it has one of the stated digest already.

    What came of a download that was cut off, be it by a crash, need not come again where the store
    keeps it. A store on the file's own server copies the file there: its bytes pass here to be
    hashed, but not back.

    Raises:
        CorruptCheckpoint: its digest is not the one that is stated.
        SourceUnavailable: see `RemoteFile.download`.
    """
    stated = Digest(f"sha256:{file.sha256}") if file.sha256 is not None else None
    if stated is not None and workspace.has(blob := Blob(stated, file.size_bytes)):
        with FilePassage(tensors) as passage:
            _read(workspace.open(blob), _reported(path, file, passage, workspace))
        return blob, passage.indexed()
    if file.stored is not None and workspace.can_copy(file.stored):
        with FilePassage(tensors) as passage:
            file.download(_reported(path, file, passage, workspace))
        with workspace.create(passage.digest) as writer:
            writer.copy_range(file.stored, 0, file.size_bytes)
            return writer.commit(passage.digest), passage.indexed()
    while (brought := _download(path, file, tensors, workspace, stated)) is None:
        pass
    return brought


def _download(
    path: str,
    file: RemoteFile,
    tensors: Iterable[Tensor],
    workspace: Workspace,
    stated: Digest | None,
) -> tuple[Blob, IndexedFile] | None:
    """Download a file; None where what was kept of it turned out to be damaged, and is gone."""
    with workspace.resume(version_name(file), stated) as unfinished:
        with FilePassage(tensors) as passage, Lane("write") as write:
            take = _reported(path, file, passage, workspace)
            for piece in unfinished.kept():
                take(piece)
            kept_bytes = passage.passed_bytes

            def write_and_take(piece: bytes) -> None:
                write.submit(partial(unfinished.write, piece))
                take(piece)

            file.download(write_and_take, kept_bytes)
        if kept_bytes and stated not in (None, passage.digest):
            return None
        hold_to_digest(file, passage.digest.removeprefix("sha256:"))
        return unfinished.commit(passage.digest), passage.indexed()


def _read(file: ByteSource, take: Callable[[bytes], None]) -> None:
    for start in range(0, file.size_bytes, _PIECE_BYTES):
        take(file.read(start, min(_PIECE_BYTES, file.size_bytes - start)))


def _reported(
    path: str, file: ByteSource, passage: FilePassage, workspace: Workspace
) -> Callable[[bytes], None]:
    """Takes the pieces of a file in order."""

    def take(piece: bytes) -> None:
        passage.feed(piece)
        workspace.progress(path, passage.passed_bytes, file.size_bytes)

    return take
