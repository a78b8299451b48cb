"""Which files of a source have to be there to normalize it."""

from __future__ import annotations

from pathlib import PurePosixPath

from corepress.domain.checkpoint import Files, Identification, Layout

_DOCUMENTS = ("model_index.json", "config.json", "README.md")


def needed_files(files: Files, identification: Identification) -> list[str]:
    """The paths of what a checkpoint is normalized from: no other file has to be fetched.

    Weights and companions as identified, and what leads `identify` to them again: configurations
    and the indices of shards.
    """
    needed = set(identification.files.values())
    for component in identification.components.values():
        needed |= {*component.weights.files, component.weights.index or ""}
    if identification.layout is Layout.DIFFUSERS:
        needed |= {path for path in files if PurePosixPath(path).name in _DOCUMENTS}
    return sorted(needed & files.keys())
