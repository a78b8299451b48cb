"""From traits to a family, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import astuple

from corepress.domain.errors import InvalidRequest, UnsupportedCheckpoint
from corepress.identify.families.controlnet import CONTROLNET_SD15, CONTROLNET_SD21, CONTROLNET_SDXL
from corepress.identify.families.family import Family, Traits
from corepress.identify.families.foreign import alike, foreign
from corepress.identify.families.sd3 import SD3
from corepress.identify.families.sd15 import SD15, SD15_INPAINTING, SD15_PIX2PIX
from corepress.identify.families.sd21 import SD21, SD21_INPAINTING
from corepress.identify.families.sdxl import SDXL, SDXL_INPAINTING, SDXL_PIX2PIX, SDXL_REFINER
from corepress.identify.quoting import listing

FAMILIES = (
    SD15,
    SD15_INPAINTING,
    SD15_PIX2PIX,
    SD21,
    SD21_INPAINTING,
    SDXL,
    SDXL_INPAINTING,
    SDXL_PIX2PIX,
    SDXL_REFINER,
    SD3,
    CONTROLNET_SD15,
    CONTROLNET_SD21,
    CONTROLNET_SDXL,
)
"""Every family; at most one matches any traits."""

_OTHER_INPUTS = {
    5: "a depth-to-image UNet (sd20-depth)",
    7: "an upscaler's UNet (sd-x4-upscaler)",
}


def recognise(traits: Traits, forced: str = "auto") -> Family:
    """The family of these traits, or the one whose name is ``forced``.

    Raises:
        UnsupportedCheckpoint: no family has these traits, or the forced one has another network.
        InvalidRequest: no family has the forced name.
    """
    if forced != "auto":
        family = family_named(forced)
        if family.traits.network != traits.network:
            raise UnsupportedCheckpoint(
                f"a {traits.network} can't be of the family {forced}, "
                f"which has a {family.traits.network}"
            )
        return family
    for family in FAMILIES:
        if family.traits == traits:
            return family
    seen = _OTHER_INPUTS.get(
        traits.in_channels, f"a {traits.network} with {traits.in_channels} input channels"
    )
    raise UnsupportedCheckpoint(
        f"{seen} is not supported; it comes nearest to {family_names(_nearest(traits))}"
    )


def family_named(name: str) -> Family:
    """The family of this name.

    Raises:
        InvalidRequest: there is none.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise InvalidRequest(
        f"there is no family {name!r}", hint=f"Families: {family_names(FAMILIES)}."
    )


def unrecognised(path: str, names: Collection[str]) -> UnsupportedCheckpoint:
    """The error for a file with nothing of any family, saying what it seems to be."""
    what = alike(names) or foreign(names)
    if what is not None:
        message = f"{path} is {what}, which is not supported"
    else:
        message = (
            f"{path} holds {len(names)} tensors of no known model, such as {listing(list(names))}"
        )
    return UnsupportedCheckpoint(
        message, path=path, hint=f"Supported families: {family_names(FAMILIES)}."
    )


def refuse_alike(path: str, names: Collection[str]) -> None:
    """Refuse models that have a family's tensors, and others that change their meaning.

    Raises:
        UnsupportedCheckpoint: this is one.
    """
    if alike(names):
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
