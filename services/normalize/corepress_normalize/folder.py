"""The ``corepress normalize`` command: from files on disk to a folder, without a store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from corepress.domain.artifact import Artifact, Blob, Digest
from corepress.domain.errors import OutputConflict
from corepress.domain.job import CheckpointOptions
from corepress.domain.source_index import SourceIndex
from corepress.identify import identify
from corepress.runtime.files import LocalFile, source_files, tokenizer_files
from corepress.runtime.lanes import Lane
from corepress.runtime.needed_files import needed_files
from corepress.runtime.output_folder import output_folder
from corepress_normalize.documents import (
    MANIFEST,
    MANIFEST_SCHEMA,
    json_file,
    manifest,
    source_document,
)
from corepress_normalize.engine import PIECE_BYTES
from corepress_normalize.folder_sink import FolderSink, Progress
from corepress_normalize.normalize import Normalized, normalize


def normalize_folder(
    source: Path, out: Path, options: CheckpointOptions, progress: Progress
) -> dict[str, Any]:
    """Normalize a checkpoint on disk into a diffusers folder at ``out``.

    Args:
        source: a weight file or a diffusers folder.
        out: the folder to make; an earlier normalized folder there is replaced, and nothing
            half-written ever stands there.
        options: how the checkpoint is read and written.
        progress: is told how far it has come.

    Returns:
        the manifest, which is also written as ``corepress.json``.

    Raises:
        OutputConflict: ``out`` holds something else, or the source.
        SourceNotFound, UnsafePath, AccessDenied: see `source_files`.
        DiskFull: no room beside ``out``.
        PermanentError: the checkpoint cannot be normalized, see `normalize`.
    """
    if source.resolve().is_relative_to(out.resolve()):
        raise OutputConflict(f"{out} holds the source", hint="choose another --out", path=str(out))
    files = source_files(source)
    identification = identify(files, options.for_identify)
    needed = {path: files[path] for path in needed_files(files, identification)}
    tokenizer = tokenizer_files(Path(options.tokenizer)) if options.tokenizer is not None else None
    with output_folder(out, MANIFEST, MANIFEST_SCHEMA) as (new, temporary):
        sink = FolderSink(temporary, progress)
        blobs: dict[str, Blob] = {}
        with Lane("hash source", depth=len(needed)) as lane:
            for path, file in needed.items():
                lane.submit(partial(_hash, path, file, blobs, lane))
            normalized = normalize(
                needed,
                options,
                sink,
                index=SourceIndex(),
                tokenizer=tokenizer,
                earlier_decisions=identification.decisions,
            )
        document = _manifest(source, blobs, normalized, sink.sha256s)
        for path, blob in normalized.files.items():
            sink.place(blob.digest, new / path)
        (new / MANIFEST).write_bytes(json_file(document))
    return document


def _hash(path: str, file: LocalFile, blobs: dict[str, Blob], lane: Lane) -> None:
    hasher = hashlib.sha256()
    for start in range(0, file.size_bytes, PIECE_BYTES):
        if lane.abandoned:
            return
        hasher.update(file.read(start, min(PIECE_BYTES, file.size_bytes - start)))
    blobs[path] = Blob(Digest(f"sha256:{hasher.hexdigest()}"), file.size_bytes)


def _manifest(
    source: Path,
    blobs: Mapping[str, Blob],
    normalized: Normalized,
    sha256s: Mapping[Digest, str],
) -> dict[str, Any]:
    origin = source_document(source.absolute().as_uri(), Artifact(blobs))
    return manifest(normalized.facts, origin, normalized.files, sha256s)
