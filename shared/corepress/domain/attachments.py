"""Checkpoints beside a base model: ControlNets and a refiner, whose networks join its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corepress.domain.errors import IncompatibleControlNet, IncompatibleRefiner

REFINER = "refiner"
"""The role of a refiner's checkpoint."""

_CONTROLNETS = "controlnet-"
"""What both the roles of ControlNets and their families begin with."""
_REFINER_FAMILY = "sdxl-refiner"


def controlnet_role(index: int) -> str:
    """The role of a job's ControlNet, counted from 0."""
    return f"{_CONTROLNETS}{index}"


def refuse_misfit(role: str, attached: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Refuse what cannot work together with a base model, going by what was read of both.

    Args:
        role: of the attached checkpoint.
        attached: its facts, see the normalize stage.
        base: the base model's.

    Raises:
        IncompatibleControlNet: it is for another family, or gives other residuals than the UNet
            takes.
        IncompatibleRefiner: it is none, or the base model is not SDXL.
    """
    if role == REFINER:
        _refuse_refiner(attached, base)
    else:
        _refuse_controlnet(attached, base)


def _refuse_refiner(refiner: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    if refiner["family"] != _REFINER_FAMILY:
        raise IncompatibleRefiner(
            f"a checkpoint of family {refiner['family']} is no refiner",
            hint=f"give one of family {_REFINER_FAMILY}",
        )
    if _line(base["family"]) != "sdxl" or base["family"] == _REFINER_FAMILY:
        raise IncompatibleRefiner(
            f"a refiner has no use beside a checkpoint of family {base['family']}",
            hint="leave --refiner out, or give an SDXL base model",
        )


def _refuse_controlnet(controlnet: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    family = controlnet["family"]
    if not family.startswith(_CONTROLNETS):
        raise IncompatibleControlNet(
            f"a checkpoint of family {family} is no ControlNet", hint="give a ControlNet"
        )
    made_for = family.removeprefix(_CONTROLNETS)
    if made_for != _line(base["family"]) or "unet" not in base["components"]:
        raise IncompatibleControlNet(
            f"a ControlNet for {made_for} does not fit a checkpoint of family {base['family']}",
            hint=f"leave it out, or give one for {_line(base['family'])}",
        )
    for what, ours in base["network"].items():
        theirs = controlnet["network"][what]
        if theirs != ours:
            raise IncompatibleControlNet(
                f"the ControlNet's {what} is {theirs}, the UNet's {ours}",
                hint="give a ControlNet that was made of a UNet like this one",
            )


def _line(family: str) -> str:
    """The base model that a family descends from."""
    return family.partition("-")[0]
