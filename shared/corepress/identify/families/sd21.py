"""Stable Diffusion 2.x."""

from __future__ import annotations

from dataclasses import replace

from corepress.domain.checkpoint import PredictionType
from corepress.identify.families.family import Family, TextEncoder, Traits
from corepress.identify.families.published import SCHEDULER, UNET, VAE

_TRAITS = Traits(
    network="unet",
    in_channels=4,
    size_conditioning=False,
    linear_projection=True,
    lone_second_text_encoder=False,
)

SD21 = Family(
    name="sd21",
    traits=_TRAITS,
    # the 512 pixel base files predict epsilon, the 768 pixel files v, with the same tensors
    prediction_type=PredictionType.AMBIGUOUS,
    network={
        **UNET,
        "dual_cross_attention": False,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "sample_size": 64,
    },
    network_for_v={"sample_size": 96, "upcast_attention": True},
    pipeline="StableDiffusionPipeline",
    text_encoders=(
        TextEncoder(
            "text_encoder",
            "cond_stage_model.",
            hidden_act="gelu",
            projection_dim=512,
            penultimate=True,
        ),
    ),
    vae=VAE,
    scheduler=SCHEDULER,
    scheduler_for_v={"_class_name": "DDIMScheduler"},
)

SD21_INPAINTING = replace(
    SD21,
    name="sd21-inpainting",
    traits=replace(_TRAITS, in_channels=9),
    prediction_type=PredictionType.EPSILON,
    pipeline="StableDiffusionInpaintPipeline",
)
