"""From traits to a family, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import astuple

from corepress.domain.errors import InvalidRequest, UnsupportedCheckpoint
from corepress.identify.families.controlnet import CONTROLNET_SD15, CONTROLNET_SD21, CONTROLNET_SDXL
from corepress.identify.families.family import Family, Traits
from corepress.identify.families.sd15 import SD15, SD15_INPAINTING
from corepress.identify.families.sd21 import SD21, SD21_INPAINTING
from corepress.identify.families.sdxl import SDXL, SDXL_INPAINTING, SDXL_REFINER
from corepress.identify.quoting import listing

FAMILIES = (
    SD15,
    SD15_INPAINTING,
    SD21,
    SD21_INPAINTING,
    SDXL,
    SDXL_INPAINTING,
    SDXL_REFINER,
    CONTROLNET_SD15,
    CONTROLNET_SD21,
    CONTROLNET_SDXL,
)
"""Every family; at most one matches any traits."""

_OTHER_INPUTS = {
    5: "a depth-to-image UNet (sd20-depth)",
    7: "an upscaler's UNet (sd-x4-upscaler)",
    8: "an image-editing UNet (instruct-pix2pix)",
}

_EDM = "a model of the EDM kind (Playground 2.5, CosXL)"
_OTHER_KEYS = {
    "a LoRA": ("lora_", ".lora."),
    "a Flux transformer": ("double_blocks.",),
    "a Stable Diffusion 3 transformer": ("joint_blocks.",),
    "an AnimateDiff motion module": ("motion_modules.",),
    "an IP-Adapter": ("ip_adapter.", "image_proj."),
    "a Stable Cascade model": ("clip_txt_mapper.", ".channelwise.0."),
    _EDM: ("edm_mean", "edm_vpred."),
    "one component in diffusers' naming, whose config.json is wanted beside it": (
        "down_blocks.0.",
        "controlnet_cond_embedding.",
    ),
}
_UNET_KEYS = ("model.diffusion_model.", "control_model.")
_VAE_KEYS = ("first_stage_model.", "encoder.down.0.", "decoder.up.0.")
_TEXT_ENCODER_KEYS = ("text_model.encoder.", "transformer.resblocks.")


def recognise(traits: Traits, forced: str = "auto") -> Family:
    """The family of these traits, or the one whose name is ``forced``.

    Raises:
        UnsupportedCheckpoint: no family has these traits.
        InvalidRequest: no family has the forced name.
    """
    for family in FAMILIES:
        if family.name == forced or (forced == "auto" and family.traits == traits):
            return family
    if forced != "auto":
        raise InvalidRequest(
            f"there is no family {forced!r}", hint=f"Families: {family_names(FAMILIES)}."
        )
    seen = _OTHER_INPUTS.get(
        traits.in_channels, f"a {traits.network} with {traits.in_channels} input channels"
    )
    raise UnsupportedCheckpoint(
        f"{seen} is not supported; it comes nearest to {family_names(_nearest(traits))}"
    )


def unrecognised(path: str, names: Collection[str]) -> UnsupportedCheckpoint:
    """The error for a file without a UNet and ControlNet, saying what it seems to be."""
    what = next((what for what, marks in _OTHER_KEYS.items() if _any(names, marks)), None)
    if what is None and _any(names, _UNET_KEYS):
        what = "a fragment of a UNet"
    if what is None and _any(names, _VAE_KEYS):
        what = "a VAE without a UNet"
    if what is None and _any(names, _TEXT_ENCODER_KEYS):
        what = "a text encoder without a UNet"
    if what is not None:
        message = f"{path} is {what}, which is not supported by itself"
    else:
        message = (
            f"{path} holds {len(names)} tensors of no known model, such as {listing(list(names))}"
        )
    return UnsupportedCheckpoint(
        message, path=path, hint=f"Supported families: {family_names(FAMILIES)}."
    )


def refuse_other_models(path: str, names: Collection[str]) -> None:
    """Refuse models that have a known family's tensors, and others that change their meaning.

    Raises:
        UnsupportedCheckpoint: this is one.
    """
    if _any(names, _OTHER_KEYS[_EDM]):
        raise unrecognised(path, names)


def family_names(families: Collection[Family]) -> str:
    """Names for a message."""
    return ", ".join(family.name for family in families)


def _nearest(traits: Traits) -> list[Family]:
    def likeness(family: Family) -> int:
        pairs = zip(astuple(family.traits), astuple(traits), strict=True)
        return sum(ours == theirs for ours, theirs in pairs)

    best = max(map(likeness, FAMILIES))
    return [family for family in FAMILIES if likeness(family) == best]


def _any(names: Collection[str], marks: tuple[str, ...]) -> bool:
    return any(mark in name for name in names for mark in marks)
