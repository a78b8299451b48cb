"""The format of a published bundle: its files, its models' names, and what makes it complete."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from pathlib import PurePath

from corepress.domain.job import default_name
from corepress.domain.recipe import COMPONENTS, ComponentName

SCHEMA = "corepress.bundle/1"
MANIFEST = "manifest.json"
MODEL_CARD = "README.md"
CHECKSUMS = "SHA256SUMS"
RESOURCES = "Resources"
"""The folder that apps load: models and vocabulary."""

CONTROLNETS = "controlnet"
"""Its folder for ControlNets, of which there may be several."""

VOCABULARY = ("vocab.json", "merges.txt")
"""The files of the CLIP tokenizer."""

MODEL_NAMES: Mapping[ComponentName, str] = {
    "text_encoder": "TextEncoder",
    "text_encoder_2": "TextEncoder2",
    "unet": "Unet",
    "controlled_unet": "ControlledUnet",
    "vae_decoder": "VAEDecoder",
    "vae_encoder": "VAEEncoder",
    "safety_checker": "SafetyChecker",
    "controlnet": "ControlNet",
    "unet_refiner": "UnetRefiner",
}
"""The file name of each component's model, as Apple's Swift package looks for it; a ControlNet is
called by its own name, see `controlnet_name`."""

CHUNK_NUMBERS = (1, 2)

_CHUNK = re.compile(r"([^/]+?)_?[cC]hunk([12])")
_ON_HUB = re.compile(r"hf://([^/@]+/[^/@]+)")
_SD = frozenset({"TextEncoder", "Unet", "VAEDecoder"})
_SDXL = _SD | {"TextEncoder2"}


def chunk_of(component: str, number: int) -> str:
    """What one of two chunks of a component is called among a bundle's components."""
    return f"{component}_chunk{number}"


def whole_of(name: str) -> str:
    """The component that a chunk is of, or the model; any other name is that of a whole."""
    found = _CHUNK.fullmatch(name)
    return found[1] if found else name


def model_of(path: PurePath) -> str:
    """Which of the models a package or compiled model is, by where it stands."""
    return "ControlNet" if path.parent.name == CONTROLNETS else path.stem


def controlnet_name(name: str, uri: str) -> str:
    """What apps call a ControlNet.

    That of ``lllyasviel/sd-controlnet-mlsd`` is ``LllyasvielSdControlnetMlsd``.

    Args:
        name: of the job.
        uri: of the source; on a hub, its owner and repository take the place of the name.
    """
    on_hub = _ON_HUB.match(uri)
    return "".join(
        word.title() for word in re.split(r"[^A-Za-z0-9]+", on_hub[1] if on_hub else name)
    )


def attached_controlnet(uri: str) -> str:
    """What a manifest calls a ControlNet that was given beside a base model: its path, in short."""
    return f"{CONTROLNETS}/{controlnet_name(default_name(uri), uri)}"


def component_of(name: str) -> ComponentName:
    """The kind of a model by its name in a manifest.

    Raises:
        ValueError: there is no such kind.
    """
    kind = whole_of(name).partition("/")[0]
    for component in COMPONENTS:
        if component == kind:
            return component
    raise ValueError(f"there is no kind of model called {kind!r}")


def model_name(name: str) -> str:
    """What a model of a manifest is called by apps, see `model_of`.

    Raises:
        ValueError: there is no such model.
    """
    chunk = name.removeprefix(whole_of(name)).replace("_chunk", "Chunk")
    return MODEL_NAMES[component_of(name)] + chunk


def missing_resources(family: str, names: Set[str]) -> list[str]:
    """What a bundle of a family lacks for an app to make images with it alone.

    Args:
        family: of the checkpoint; a refiner has no first text encoder.
        names: of what is in `RESOURCES`; models' without their ending.
    """
    if names >= {"UnetChunk1", "UnetChunk2"}:
        names = names | {"Unet"}
    needed = _SDXL if family.removeprefix("controlnet-").startswith("sdxl") else _SD
    if family == "sdxl-refiner":
        needed -= {"TextEncoder"}
    return [*sorted(needed - names), *(name for name in VOCABULARY if name not in names)]
