"""The format of a published bundle: its files, its models' names, and what makes it complete."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from pathlib import PurePath

from corepress.domain.recipe import ComponentName

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
    "controlnet": "ControlNet",
}
"""The file name of each component's model, as Apple's Swift package looks for it; a ControlNet is
called by its own name, see `controlnet_name`."""

CHUNK_NUMBERS = (1, 2)

_CHUNK = re.compile(r"(.+?)_?[cC]hunk([12])")
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


def component_of(model: str) -> str | None:
    """The component of a bundle that a model is called after, chunks included; None: there is none.

    Args:
        model: see `model_of`.
    """
    whole = whole_of(model)
    component = next((name for name, stated in MODEL_NAMES.items() if stated == whole), None)
    return component and component + model.removeprefix(whole).replace("Chunk", "_chunk")


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
