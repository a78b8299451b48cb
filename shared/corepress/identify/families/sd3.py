"""Stable Diffusion 3 and 3.5, in all sizes."""

from __future__ import annotations

from corepress.domain.checkpoint import PredictionType
from corepress.identify.families.family import Family, TextEncoder, Traits
from corepress.identify.families.published import DIFFUSERS_VERSION, VAE

SD3 = Family(
    name="sd3",
    traits=Traits(
        network="transformer",
        in_channels=16,
        size_conditioning=False,
        linear_projection=False,
        lone_second_text_encoder=False,
    ),
    prediction_type=PredictionType.FLOW,
    # as in stabilityai/stable-diffusion-3-medium-diffusers and -3.5-large
    network={
        "_class_name": "SD3Transformer2DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": 128,
    },
    pipeline="StableDiffusion3Pipeline",
    text_encoders=(
        TextEncoder(
            "text_encoder",
            "text_encoders.clip_l.",
            architecture="CLIPTextModelWithProjection",
            identity_projection=True,
            required=False,
        ),
        TextEncoder(
            "text_encoder_2",
            "text_encoders.clip_g.",
            architecture="CLIPTextModelWithProjection",
            hidden_act="gelu",
            required=False,
        ),
        TextEncoder(
            "text_encoder_3",
            "text_encoders.t5xxl.",
            architecture="T5EncoderModel",
            required=False,
        ),
    ),
    vae={**VAE, "force_upcast": True, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    scheduler={
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": 1000,
        "shift": 3.0,
    },
)
