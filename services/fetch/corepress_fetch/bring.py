"""Bringing a file into the store, reading each of its bytes once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial

from corepress.domain.artifact import Blob, Digest
from corepress.domain.checkpoint import Tensor
from corepress.domain.errors import SourceUnavailable
from corepress.domain.source_index import IndexedFile
from corepress.domain.stage import Workspace
from corepress.runtime.files import LocalFile
from corepress.runtime.lanes import Lane
from corepress_fetch.http_file import HttpFile
from corepress_fetch.passage import TensorPassage

_PIECE_BYTES = 1 << 20


def bring_local(
    path: str, file: LocalFile, tensors: Iterable[Tensor], workspace: Workspace
) -> tuple[Blob, IndexedFile]:
    """Let the store have a file on disk, which is hashed and not copied where that can be helped.

    Raises:
        SourceUnavailable: the file was changed meanwhile.
    """
    before = file.fingerprint
    hasher, passage = hashlib.sha256(), TensorPassage(tensors)
    with Lane("hash file") as whole, Lane("hash tensors") as parts:
        for start in range(0, file.size_bytes, _PIECE_BYTES):
            piece = file.read(start, min(_PIECE_BYTES, file.size_bytes - start))
            whole.submit(partial(hasher.update, piece))
            parts.submit(partial(passage.feed, piece))
            workspace.progress(path, start + len(piece), file.size_bytes)
    if file.fingerprint != before:
        raise SourceUnavailable(f"{path} was changed while it was read", path=path)
    blob = workspace.adopt(file.local_path(), Digest(f"sha256:{hasher.hexdigest()}"))
    return blob, _indexed(blob, passage)


def download(
    file: HttpFile, tensors: Iterable[Tensor], workspace: Workspace
) -> tuple[Blob, IndexedFile]:
    """Download a file into the store.

    Raises:
        CorruptCheckpoint: its digest is not the one that the address states.
        SourceUnavailable: see `HttpFile.download`.
    """
    passage = TensorPassage(tensors)
    received = 0
    with workspace.create() as writer:
        with Lane("write") as write, Lane("hash tensors") as parts:

            def consume(piece: bytes) -> None:
                nonlocal received
                write.submit(partial(writer.write, piece))
                parts.submit(partial(passage.feed, piece))
                received += len(piece)
                workspace.progress(file.name, received, file.size_bytes)

            file.download(consume)
        blob = writer.commit()
    file.hold_to_digest(blob.digest.removeprefix("sha256:"))
    return blob, _indexed(blob, passage)


def _indexed(blob: Blob, passage: TensorPassage) -> IndexedFile:
    return IndexedFile(blob.digest.removeprefix("sha256:"), blob.size_bytes, passage.found)
