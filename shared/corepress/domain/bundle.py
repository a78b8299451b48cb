"""The format of a published bundle: its files, its models' names, and what makes it complete."""

from __future__ import annotations

from collections.abc import Mapping, Set

from corepress.domain.recipe import ComponentName

SCHEMA = "corepress.bundle/1"
MANIFEST = "manifest.json"
MODEL_CARD = "README.md"
CHECKSUMS = "SHA256SUMS"
RESOURCES = "Resources"
"""The folder that apps load: models and vocabulary."""

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
"""The file name of each component's model, as Apple's Swift package looks for it."""

_SD = frozenset({"TextEncoder", "Unet", "VAEDecoder"})
_SDXL = _SD | {"TextEncoder2"}


def missing_resources(family: str, names: Set[str]) -> list[str]:
    """What a bundle of a family lacks for an app to make images with it alone.

    Args:
        family: of the checkpoint; a refiner has no first text encoder.
        names: of what is in `RESOURCES`; models' without their ending.
    """
    needed = _SDXL if family.startswith("sdxl") else _SD
    if family == "sdxl-refiner":
        needed -= {"TextEncoder"}
    return [*sorted(needed - names), *(name for name in VOCABULARY if name not in names)]
