"""Which files of a source have to be there to normalize it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from corepress.domain.checkpoint import ByteSource, Files, Identification, Layout
from corepress.domain.composition import CHECKPOINT, VAE
from corepress.identify.compose import Composition
from corepress.identify.original_config import original_config_beside
from corepress.identify.vae import vae_files

_DOCUMENTS = ("model_index.json", "config.json", "README.md")

File = TypeVar("File", bound=ByteSource)


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
    else:
        needed |= {original_config_beside(files, path) or path for path in needed & files.keys()}
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
