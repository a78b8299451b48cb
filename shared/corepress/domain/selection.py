"""Which models a recipe's builds hold, and which sizes these can have."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from corepress.domain.attachments import REFINER
from corepress.domain.bundle import attached_controlnet
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import UnsupportedRecipe
from corepress.domain.job import JobRequest
from corepress.domain.recipe import (
    BY_REQUEST,
    COMPONENTS,
    DENOISERS,
    SIZED,
    SOURCE_COMPONENT,
    ComponentName,
    Recipe,
)

_NOT_YET = "transformer"
"""A component whose family cannot be converted."""

Facts = Mapping[str, Mapping[str, Any]]
"""What normalize found in a job's checkpoints, by role."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a build: its name in the manifest, its kind, and whose component it is made of."""

    name: str
    component: ComponentName
    role: str


def models(request: JobRequest, recipe: Recipe, facts: Facts) -> list[Model]:
    """The models of a recipe's builds: those of the checkpoint, then those of attachments.

    Raises:
        UnsupportedRecipe: the recipe asks for what there is not, or nothing can be converted.
    """
    attached = [
        Model("unet_refiner", "unet_refiner", role)
        if role == REFINER
        else Model(attached_controlnet(request.attachments[role]), "controlnet", role)
        for role in facts
        if role != CHECKPOINT
    ]
    own = _components(recipe, facts[CHECKPOINT], {model.component for model in attached})
    if not own and not attached:
        raise UnsupportedRecipe(
            f"a checkpoint of family {facts[CHECKPOINT]['family']} has no component that can be "
            "converted yet",
            hint="`corepress normalize` still makes a diffusers folder of it",
        )
    return [*(Model(component, component, CHECKPOINT) for component in own), *attached]


def _components(
    recipe: Recipe, facts: Mapping[str, Any], attached: Set[ComponentName]
) -> list[ComponentName]:
    """The models of the checkpoint itself.

    Args:
        recipe: chooses. It may name what is attached, which is there in any case.
        facts: of the checkpoint.
        attached: the kinds of models made of other checkpoints.
    """
    if _NOT_YET in facts["components"]:
        raise UnsupportedRecipe(
            f"a checkpoint of family {facts['family']} cannot be converted yet",
            hint="`corepress normalize` makes a diffusers folder of it",
        )
    available: list[ComponentName] = [
        c
        for c in COMPONENTS
        if SOURCE_COMPONENT.get(c) in facts["components"] and c != "unet_refiner"
    ]
    if recipe.components == "default":
        chosen = frozenset(available) - BY_REQUEST
        controlled = "controlnet" in (*available, *attached)
    else:
        chosen = frozenset(recipe.components)
        controlled = "controlnet" in attached
        if missing := [c for c in recipe.components if c not in (*available, *attached)]:
            raise UnsupportedRecipe(
                f"recipe {recipe.name!r} asks for {', '.join(missing)}, "
                f"but this checkpoint has {', '.join(available) or 'none that can be converted'}",
                hint="remove it from `components` in the recipe",
            )
    return [c for c in available if c in chosen or (controlled and c == "controlled_unet")]


def refuse_unsuitable_sizes(recipe: Recipe, chosen: list[Model], facts: Facts) -> None:
    """Refuse sizes that some of the chosen models cannot have.

    Raises:
        UnsupportedRecipe: says which size comes nearest.
    """
    if recipe.sizes == "native":
        return
    for model in chosen:
        if model.component not in SIZED:
            continue
        step = int(facts[CHECKPOINT]["vae_scale_factor"])
        if model.component in DENOISERS:
            step *= int(facts[model.role]["unet_divisor"])
        for width, height in recipe.sizes:
            if width <= 0 or height <= 0 or width % step or height % step:
                raise UnsupportedRecipe(
                    f"recipe {recipe.name!r}: size {width}x{height} does not suit {model.name}: "
                    f"both sides must be positive multiples of {step} pixels",
                    hint=f"use {_round(width, step)}x{_round(height, step)}",
                )


def _round(pixels: int, step: int) -> int:
    return max(step, (pixels + step // 2) // step * step)
