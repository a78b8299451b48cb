"""Sources on disk, for work without a store: what is on a server is downloaded for the while."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from corepress.domain.job import CheckpointOptions
from corepress.identify import compose
from corepress.runtime.files import local_path
from corepress.runtime.output_folder import work_folder
from corepress_fetch.http_file import HttpFile
from corepress_fetch.source import open_source

Progress = Callable[[str, float, float, str], object]
"""Takes a file's name, the bytes that came, all bytes, and their unit."""


@contextmanager
def local_copies(
    sources: Mapping[str, str], options: CheckpointOptions, out: Path, progress: Progress
) -> Iterator[dict[str, Path]]:
    """A path for each of a checkpoint's sources, which are given by role.

    Nothing is downloaded before headers told that all of it can be used.

    Args:
        sources: their addresses by role.
        options: how the checkpoint is read.
        out: where the result is to go; downloads are kept beside it.
        progress: is told how far a download has come.

    Raises:
        OutputConflict, DiskFull: see `work_folder`.
        PermanentError, TransientError: see `open_source` and `compose`.
    """
    paths = {role: local_path(uri) for role, uri in sources.items()}
    present = {role: path for role, path in paths.items() if path is not None}
    if len(present) == len(sources):
        yield present
        return
    opened = {role: open_source(uri) for role, uri in sources.items()}
    compose(opened, options.lora_scales, options.for_identify).refuse_misfits()
    with work_folder(out) as folder:
        for role in sources.keys() - present.keys():
            (folder / role).mkdir()
            for name, file in opened[role].items():
                if isinstance(file, HttpFile):
                    present[role] = folder / role / name
                    _download(file, present[role], progress)
        yield present


def _download(file: HttpFile, path: Path, progress: Progress) -> None:
    hasher, received = hashlib.sha256(), 0
    with path.open("wb") as copy:

        def consume(piece: bytes) -> None:
            nonlocal received
            copy.write(piece)
            hasher.update(piece)
            received += len(piece)
            progress(file.name, received, file.size_bytes, "B")

        file.download(consume)
    file.hold_to_digest(hasher.hexdigest())
