"""The forms in which apps take models.

Hugging Face's app for Apple devices downloads ``<repository>_<attention>_compiled.zip`` from the
root of a model repository and opens the folder in it, which is called as the archive is
(``ModelInfo.swift`` and ``PipelineLoader.swift`` of
https://github.com/huggingface/swift-coreml-diffusers).
Mochi Diffusion opens each folder in its folder of models that has ``Unet.mlmodelc`` or the like
directly in it, and takes ControlNets from a folder of their own (``SDModel.swift`` and
``ModelRepository.swift`` of https://github.com/MochiDiffusion/MochiDiffusion).
Both want compiled models; what holds packages is called so, and neither app opens it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Literal, TypeVar

from corepress.domain.bundle import RESOURCES

Form = Literal["compiled", "packages"]
FORMS: tuple[Form, ...] = ("compiled", "packages")

File = TypeVar("File")


def resources(bundle: Mapping[str, File]) -> dict[str, File]:
    """What apps load of a bundle's files, by paths within their folder."""
    prefix = f"{RESOURCES}/"
    return {
        path.removeprefix(prefix): file for path, file in bundle.items() if path.startswith(prefix)
    }


def form_of(paths: Iterable[str]) -> Form:
    """Whether the models among a bundle's files are compiled."""
    suffixes = {PurePosixPath(part).suffix for path in paths for part in path.split("/")}
    return "packages" if ".mlpackage" in suffixes else "compiled"


def archive_stem(name: str, attention: str, form: Form) -> str:
    """What an archive and the folder in it are called.

    Args:
        name: of the repository, without its owner.
        attention: as in a recipe.
        form: of the models.
    """
    return f"{name}_{attention}_{form}"
