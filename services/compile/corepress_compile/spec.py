"""What is to be built of one component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corepress.domain.recipe import (
    DEFAULT_GUIDANCE_SCALE,
    Attention,
    ComponentName,
    Compression,
    Precision,
)


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """One model of a build.

    ``latent_size`` is (height, width) of the latent, None for text encoders; the image is
    ``vae_scale_factor`` times as large. ``clip_skip`` counts as the web UIs do: 1 is the last
    layer; None leaves the layer that the family conditions on. ``guidance_scale`` is baked into
    UNets that embed one. ``scheduler`` is the folder of the scheduler by whose noise schedule a
    UNet's v becomes epsilon; None leaves what it predicts.
    """

    component: ComponentName
    family: str
    precision: Precision
    deployment_target: str
    latent_size: tuple[int, int] | None = None
    vae_scale_factor: int = 8
    batch: int = 1
    attention: Attention = "original"
    clip_skip: int | None = None
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    scheduler: Path | None = None
    compression: Compression | None = None
    chunks: int = 1

    @staticmethod
    def from_parameters(parameters: Mapping[str, Any], scheduler: Path | None = None) -> BuildSpec:
        """The spec in a convert task's parameters, whose ``epsilon_output`` is to be given by way
        of a scheduler's folder."""
        latent_size = None
        factor = int(parameters.get("vae_scale_factor", 8))
        compression = parameters.get("compression")
        if "size" in parameters:
            width, height = parameters["size"]
            latent_size = (height // factor, width // factor)
        return BuildSpec(
            component=parameters["component"],
            family=parameters["family"],
            precision=parameters["precision"],
            deployment_target=parameters["deployment_target"],
            latent_size=latent_size,
            vae_scale_factor=factor,
            batch=parameters.get("batch", 1),
            attention=parameters.get("attention", "original"),
            clip_skip=parameters.get("clip_skip"),
            guidance_scale=parameters.get("guidance_scale", DEFAULT_GUIDANCE_SCALE),
            scheduler=scheduler if parameters.get("epsilon_output") else None,
            compression=Compression(**compression) if compression else None,
            chunks=parameters.get("chunks", 1),
        )
