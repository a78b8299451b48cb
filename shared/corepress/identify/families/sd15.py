"""Stable Diffusion 1.x."""

from __future__ import annotations

from dataclasses import replace

from corepress.domain.checkpoint import PredictionType
from corepress.identify.families.family import Family, TextEncoder, Traits
from corepress.identify.families.published import SCHEDULER, UNET, VAE

_TRAITS = Traits(
    network="unet",
    in_channels=4,
    size_conditioning=False,
    linear_projection=False,
    lone_second_text_encoder=False,
)

SD15 = Family(
    name="sd15",
    traits=_TRAITS,
    prediction_type=PredictionType.EPSILON,
    network={**UNET, "sample_size": 64},
    heads=8,
    pipeline="StableDiffusionPipeline",
    text_encoders=(TextEncoder("text_encoder", "cond_stage_model."),),
    vae=VAE,
    scheduler=SCHEDULER,
)

SD15_PIX2PIX = replace(
    SD15,
    name="sd15-pix2pix",
    traits=replace(_TRAITS, in_channels=8),
    pipeline="StableDiffusionInstructPix2PixPipeline",
)

SD15_INPAINTING = replace(
    SD15,
    name="sd15-inpainting",
    traits=replace(_TRAITS, in_channels=9),
    pipeline="StableDiffusionInpaintPipeline",
)
