"""Stable Diffusion XL and its refiner."""

from __future__ import annotations

from dataclasses import replace

from corepress.domain.checkpoint import PredictionType
from corepress.identify.families.family import Family, TextEncoder, Traits
from corepress.identify.families.published import SCHEDULER, UNET, VAE

_TRAITS = Traits(
    network="unet",
    in_channels=4,
    size_conditioning=True,
    linear_projection=True,
    lone_second_text_encoder=False,
)

SDXL = Family(
    name="sdxl",
    traits=_TRAITS,
    prediction_type=PredictionType.EPSILON,
    network={
        **UNET,
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 256,
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_norm": None,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "mid_block_only_cross_attention": None,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "sample_size": 128,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
        "upcast_attention": None,
    },
    pipeline="StableDiffusionXLPipeline",
    text_encoders=(
        TextEncoder("text_encoder", "conditioner.embedders.0."),
        TextEncoder(
            "text_encoder_2",
            "conditioner.embedders.1.",
            architecture="CLIPTextModelWithProjection",
            hidden_act="gelu",
        ),
    ),
    vae={**VAE, "force_upcast": True, "scaling_factor": 0.13025},
    scheduler={
        **SCHEDULER,
        "_class_name": "EulerDiscreteScheduler",
        "interpolation_type": "linear",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
)

SDXL_INPAINTING = replace(
    SDXL,
    name="sdxl-inpainting",
    traits=replace(_TRAITS, in_channels=9),
    pipeline="StableDiffusionXLInpaintPipeline",
)

SDXL_PIX2PIX = replace(
    SDXL,
    name="sdxl-pix2pix",
    traits=replace(_TRAITS, in_channels=8),
    pipeline="StableDiffusionXLInstructPix2PixPipeline",
)

SDXL_REFINER = replace(
    SDXL,
    name="sdxl-refiner",
    traits=replace(_TRAITS, lone_second_text_encoder=True),
    pipeline="StableDiffusionXLImg2ImgPipeline",
    text_encoders=(replace(SDXL.text_encoders[1], prefix="conditioner.embedders.0."),),
)
