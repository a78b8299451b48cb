"""Files that give each layer of a model bits of its own, which recipes name under ``mixed``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import yaml
from pydantic import TypeAdapter

from corepress.documents.typed import Fault, Kind, parse
from corepress.domain.errors import UnsupportedRecipe
from corepress.domain.recipe import (
    MODERN_TARGETS,
    Bits,
    ComponentName,
    DeploymentTarget,
    needs_modern_target,
)
from corepress.recipes.recipe_file import HINT


@dataclass(frozen=True, slots=True)
class LayerBits:
    """Such a file; ``layers`` are named as in a normalized checkpoint, 16 bits are no palette.

    The other fields say what it was made from and for: ``bits_per_weight`` is the mean over all
    parameters, ``psnr_db`` how near the outputs then come to those of the original weights.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    layers: dict[str, Bits]
    family: str | None = None
    component: ComponentName | None = None
    bits_per_weight: float | None = None
    psnr_db: float | None = None

    def text(self) -> str:
        """The file's content."""
        about = {
            "family": self.family,
            "component": self.component,
            "bits_per_weight": self.bits_per_weight,
            "psnr_db": self.psnr_db,
        }
        known = {name: value for name, value in about.items() if value is not None}
        return yaml.safe_dump({**known, "layers": dict(self.layers)}, sort_keys=False)


_LAYER_BITS = Kind(TypeAdapter(LayerBits), "a file of bits", UnsupportedRecipe, HINT)


def parse_layer_bits(text: str, where: str, target: DeploymentTarget) -> dict[str, Bits]:
    """The bits of each layer, from the text of such a file.

    Args:
        text: YAML.
        where: the file's name for messages.
        target: of the recipe.

    Raises:
        UnsupportedRecipe: names file, line and allowed values.
    """

    def impossible(content: LayerBits) -> Iterator[Fault]:
        if not content.layers:
            yield ("layers",), "layers: give at least one layer its bits"
        for layer, bits in content.layers.items():
            if needs_modern_target(bits) and target not in MODERN_TARGETS:
                yield (
                    ("layers", layer),
                    f"layers.{layer}: {bits} bits need a deployment target of iOS18, macOS15 or "
                    f"newer, the recipe says {target}",
                )

    return parse(_LAYER_BITS, text, where, impossible).layers
