"""Sources on disk, for work without a store: what is on a server is downloaded for the while."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from corepress.domain.composition import CHECKPOINT, VAE, Lora, lora_role
from corepress.domain.job import CheckpointOptions
from corepress.identify import compose
from corepress.runtime.files import LocalFile, local_path
from corepress.runtime.needed_files import needed_by_role
from corepress.runtime.output_folder import work_folder
from corepress_fetch.remote_file import RemoteFile, hold_to_digest
from corepress_fetch.source import open_source

Progress = Callable[[str, float, float, str], object]
"""Takes a file's name, the bytes that came, all bytes, and their unit."""


@contextmanager
def local_copies(
    uri: str, options: CheckpointOptions, out: Path, progress: Progress
) -> Iterator[tuple[Path, CheckpointOptions]]:
    """A path for a checkpoint, and options whose further sources are paths.

    Nothing is downloaded before headers told that all of it can be used.

    Args:
        uri: of the checkpoint.
        options: how it is read.
        out: where the result is to go; downloads are kept beside it.
        progress: is told how far a download has come.

    Raises:
        OutputConflict, DiskFull: see `work_folder`.
        PermanentError, TransientError: see `open_source` and `compose`.
    """
    with _copied({CHECKPOINT: uri, **options.further_sources}, options, out, progress) as paths:
        yield (
            paths[CHECKPOINT],
            replace(
                options,
                vae=str(paths[VAE]) if VAE in paths else None,
                lora=tuple(
                    Lora(str(paths[lora_role(index)]), lora.scale)
                    for index, lora in enumerate(options.lora)
                ),
            ),
        )


@contextmanager
def _copied(
    sources: Mapping[str, str], options: CheckpointOptions, out: Path, progress: Progress
) -> Iterator[dict[str, Path]]:
    """A path for each source, which are given by role."""
    paths = {role: local_path(uri) for role, uri in sources.items()}
    present = {role: path for role, path in paths.items() if path is not None}
    if len(present) == len(sources):
        yield present
        return
    opened = {role: open_source(uri) for role, uri in sources.items()}
    composition = compose(opened, options.lora_scales, options.for_identify)
    composition.refuse_misfits()
    needed = needed_by_role(opened, composition)
    with work_folder(out) as folder:
        for role in sources.keys() - present.keys():
            for path, file in needed[role].items():
                if not isinstance(file, LocalFile):
                    _download(path, file, folder / role / path, progress)
            present[role] = _root(folder / role, list(needed[role]))
        yield present


def _root(folder: Path, paths: Sequence[str]) -> Path:
    """A single file itself, or the folder of several."""
    return folder / paths[0] if len(paths) == 1 else folder


def _download(path: str, file: RemoteFile, copy: Path, progress: Progress) -> None:
    hasher, received = hashlib.sha256(), 0
    copy.parent.mkdir(parents=True, exist_ok=True)
    with copy.open("wb") as target:

        def consume(piece: bytes) -> None:
            nonlocal received
            target.write(piece)
            hasher.update(piece)
            received += len(piece)
            progress(path, received, file.size_bytes, "B")

        file.download(consume)
    hold_to_digest(file, hasher.hexdigest())
