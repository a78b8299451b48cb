"""The ``corepress normalize`` command: from files on disk to a folder, without a store."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from corepress.domain.artifact import Artifact
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import OutputConflict
from corepress.domain.job import CheckpointOptions
from corepress.domain.source_index import SourceIndex
from corepress.identify import compose
from corepress.runtime.files import on_disk, source_files, tokenizer_files
from corepress.runtime.lanes import Lane
from corepress.runtime.needed_files import needed_by_role
from corepress.runtime.output_folder import output_folder
from corepress_normalize.documents import (
    MANIFEST,
    MANIFEST_SCHEMA,
    composition_document,
    json_file,
    manifest,
    source_document,
)
from corepress_normalize.folder_sink import FolderSink, Progress
from corepress_normalize.hashed_file import HashedFile
from corepress_normalize.normalize import normalize


def normalize_folder(
    source: Path,
    out: Path,
    options: CheckpointOptions,
    progress: Progress,
    uri: str | None = None,
) -> dict[str, Any]:
    """Normalize a checkpoint on disk into a diffusers folder at ``out``.

    Args:
        source: a weight file or a diffusers folder.
        out: the folder to make; an earlier normalized folder there is replaced, and nothing
            half-written ever stands there.
        options: how the checkpoint is read and written, and what is put into it.
        progress: is told how far it has come.
        uri: where the source came from, if not from disk.

    Returns:
        the manifest, which is also written as ``corepress.json``.

    Raises:
        OutputConflict: ``out`` holds something else, or a source.
        InvalidRequest: a further source is not on disk.
        SourceNotFound, UnsafePath, AccessDenied: see `source_files`.
        DiskFull: no room beside ``out``.
        PermanentError: the checkpoint cannot be normalized, see `normalize`.
    """
    paths = {CHECKPOINT: source}
    paths |= {role: on_disk(uri) for role, uri in options.further_sources.items()}
    if any(path.resolve().is_relative_to(out.resolve()) for path in paths.values()):
        raise OutputConflict(f"{out} holds the source", hint="choose another --out", path=str(out))
    files = {role: source_files(path) for role, path in paths.items()}
    composition = compose(files, options.lora_scales, options.for_identify)
    composition.refuse_misfits()
    needed = needed_by_role(files, composition)
    tokenizer = tokenizer_files(Path(options.tokenizer)) if options.tokenizer is not None else None
    with output_folder(out, MANIFEST, MANIFEST_SCHEMA) as (new, temporary):
        sink = FolderSink(temporary, progress)
        with ExitStack() as lanes:
            hashed = {
                role: {
                    path: HashedFile(file, lanes.enter_context(Lane(f"hash {path}")))
                    for path, file in content.items()
                }
                for role, content in needed.items()
            }
            normalized = normalize(
                hashed,
                options,
                sink,
                index=SourceIndex(),
                lora_scales=options.lora_scales,
                tokenizer=tokenizer,
                earlier_decisions=composition.file_decisions,
            )
            artifacts = {
                role: Artifact({path: file.blob() for path, file in content.items()})
                for role, content in hashed.items()
            }
        facts = {
            **normalized.facts,
            "composition": composition_document(artifacts, options.lora_scales),
        }
        origin = source_document(uri or source.absolute().as_uri(), artifacts[CHECKPOINT])
        document = manifest(facts, origin, normalized.files)
        for path, blob in normalized.files.items():
            sink.place(blob.digest, new / path)
        (new / MANIFEST).write_bytes(json_file(document))
    return document
