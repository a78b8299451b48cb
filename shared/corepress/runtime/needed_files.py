"""Which files of a source have to be there to normalize it."""

from __future__ import annotations

from pathlib import PurePosixPath

from corepress.domain.checkpoint import Files, Identification, Layout
from corepress.identify.json_file import read_json_object

_DOCUMENTS = ("model_index.json", "config.json", "README.md")
_INDEX = ".safetensors.index."


def needed_files(files: Files, identification: Identification) -> list[str]:
    """The paths of what a checkpoint is normalized from: no other file has to be fetched.

    Weights and companions as identified, and what leads `identify` to them again: configurations,
    and of the shard indices those that name the chosen shards.
    """
    components = identification.components.values()
    chosen = {path for component in components for path in component.weights.files}
    needed = chosen | set(identification.files.values())
    if identification.layout is Layout.DIFFUSERS:
        needed |= {path for path in files if PurePosixPath(path).name in _DOCUMENTS}
        needed |= {path for path in files if _INDEX in path and _shards(files, path) <= chosen}
    return sorted(needed & files.keys())


def _shards(files: Files, index: str) -> set[str]:
    folder = PurePosixPath(index).parent
    weight_map: dict[str, str] = read_json_object(files, index)["weight_map"]
    return {str(folder / name) for name in weight_map.values()}
