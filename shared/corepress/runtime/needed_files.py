"""Which files of a source have to be there to normalize it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from corepress.domain.checkpoint import ByteSource, Files, Identification, Layout
from corepress.domain.composition import CHECKPOINT, VAE
from corepress.identify.compose import Composition
from corepress.identify.json_file import read_json_object
from corepress.identify.vae import vae_files

_DOCUMENTS = ("model_index.json", "config.json", "README.md")
_INDEX = ".safetensors.index."

File = TypeVar("File", bound=ByteSource)


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


def needed_by_role(
    sources: Mapping[str, Mapping[str, File]], composition: Composition
) -> dict[str, dict[str, File]]:
    """The files of all sources that a composition is normalized from, by role and path."""
    needed = {CHECKPOINT: needed_files(sources[CHECKPOINT], composition.checkpoint)}
    if composition.vae is not None:
        needed[VAE] = needed_files(vae_files(sources[VAE]), composition.vae)
    for role, lora in composition.loras.items():
        needed[role] = list(lora.files)
    return {role: {path: sources[role][path] for path in paths} for role, paths in needed.items()}


def _shards(files: Files, index: str) -> set[str]:
    folder = PurePosixPath(index).parent
    weight_map: dict[str, str] = read_json_object(files, index)["weight_map"]
    return {str(folder / name) for name in weight_map.values()}
