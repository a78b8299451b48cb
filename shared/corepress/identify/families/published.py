"""Settings that the published repositories of several families share.

Read off runwayml/stable-diffusion-v1-5, stabilityai/stable-diffusion-2-1,
stabilityai/stable-diffusion-xl-base-1.0 and google/t5-v1_1-xxl on the Hugging Face Hub.
"""

from __future__ import annotations

from typing import Any

DIFFUSERS_VERSION = "0.30.2"
"""The ``_diffusers_version`` that is written: fixed, so that equal input gives equal files."""

_NETWORK: dict[str, Any] = {
    "_diffusers_version": DIFFUSERS_VERSION,
    "act_fn": "silu",
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
}

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    **_NETWORK,
    "center_input_sample": False,
}

CONTROLNET: dict[str, Any] = {
    "_class_name": "ControlNetModel",
    **_NETWORK,
    "class_embed_type": None,
    "controlnet_conditioning_channel_order": "rgb",
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
}

VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": DIFFUSERS_VERSION,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}

CLIP: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    # 2 is what all published files have; transformers reads it as "the greatest id ends the text"
    "eos_token_id": 2,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_text_model",
    "pad_token_id": 1,
}

T5: dict[str, Any] = {
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "use_cache": True,
}

SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": DIFFUSERS_VERSION,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
