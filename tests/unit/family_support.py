"""Full-size families without a published key list here: what diffusers' own classes hold.

Classes are built on the meta device, from the sizes of published repositories. Their names in the
original layout are ours, which is no proof of itself: `test_diffusers_yardstick` has diffusers
convert them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, SD3Transformer2DModel, UNet2DConditionModel
from identify_support import MANIFESTS, manifest
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from corepress.identify.architectures.walks import parameters

Tensors = dict[str, tuple[str, list[int]]]

_PREFIXES = {
    UNet2DConditionModel: ("unet", "model.diffusion_model."),
    ControlNetModel: ("controlnet", "control_model."),
    SD3Transformer2DModel: ("transformer", "model.diffusion_model."),
    AutoencoderKL: ("vae", "first_stage_model."),
}


@dataclass(frozen=True)
class Model:
    """A class of diffusers and the sizes that it is published in."""

    kind: Any
    sizes: Mapping[str, Any]

    @cached_property
    def built(self) -> torch.nn.Module:
        with torch.device("meta"):
            model: torch.nn.Module = self.kind(**self.sizes)
        return model

    @property
    def config(self) -> dict[str, Any]:
        return {"_class_name": self.kind.__name__, **self.built.config}


@cache
def _stored(module: torch.nn.Module) -> Tensors:
    return {name: ("F16", list(tensor.shape)) for name, tensor in module.state_dict().items()}


def stored(model: Model) -> Tensors:
    """The tensors of a file that diffusers saves."""
    return dict(_stored(model.built))


def original_file(model: Model) -> Tensors:
    """The tensors of a file in the original layout that holds this model alone."""
    component, prefix = _PREFIXES[model.kind]
    return {
        prefix + p.original: ("F16", list(p.original_shape))
        for p in parameters(component, model.config)
    }


def _levels(attention: str) -> dict[str, list[str]]:
    """Block types by level: ``a`` for those with attention, ``-`` for those without."""
    kinds = ["CrossAttn" if level == "a" else "" for level in attention]
    return {
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
    }


_XL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    **_levels("-aa"),
}
_CUT_DOWN = {**_XL, "mid_block_type": "UNetMidBlock2D"}
_SD2 = {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
_CONTROLNET_XL = {key: value for key, value in _XL.items() if key != "up_block_types"}
_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
_SD3 = {
    "caption_projection_dim": 1536,
    "num_attention_heads": 24,
    "num_layers": 24,
    "pos_embed_max_size": 192,
}

DIFFUSERS_MODELS = {
    "sd15": Model(UNet2DConditionModel, {"cross_attention_dim": 768}),
    "sd21": Model(UNet2DConditionModel, _SD2),
    "sdxl": Model(UNet2DConditionModel, _XL),
    "sdxl-lcm": Model(UNet2DConditionModel, {**_XL, "time_cond_proj_dim": 256}),
    "sdxl-pix2pix": Model(UNet2DConditionModel, {**_XL, "in_channels": 8}),
    "ssd-1b": Model(
        UNet2DConditionModel,
        {
            **_CUT_DOWN,
            "transformer_layers_per_block": [1, [2, 2], [4, 4]],
            "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        },
    ),
    "vega": Model(UNet2DConditionModel, {**_CUT_DOWN, "transformer_layers_per_block": [1, 1, 2]}),
    "koala-700m": Model(
        UNet2DConditionModel,
        {
            **_XL,
            "layers_per_block": 1,
            "mid_block_type": None,
            "transformer_layers_per_block": [1, 2, 5],
        },
    ),
    "controlnet-sd15": Model(ControlNetModel, {"cross_attention_dim": 768}),
    "controlnet-sd21": Model(ControlNetModel, _SD2),
    "controlnet-sdxl": Model(ControlNetModel, _CONTROLNET_XL),
    "controlnet-sdxl-mid": Model(
        ControlNetModel,
        {
            **_CONTROLNET_XL,
            "down_block_types": _levels("--a")["down_block_types"],
            "transformer_layers_per_block": 1,
        },
    ),
    "controlnet-sdxl-small": Model(
        ControlNetModel,
        {
            **_CONTROLNET_XL,
            "down_block_types": _levels("---")["down_block_types"],
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": 1,
        },
    ),
    "sd3-medium": Model(SD3Transformer2DModel, _SD3),
    "sd35-medium": Model(
        SD3Transformer2DModel,
        {
            **_SD3,
            "dual_attention_layers": list(range(13)),
            "pos_embed_max_size": 384,
            "qk_norm": "rms_norm",
        },
    ),
    "sd35-large": Model(
        SD3Transformer2DModel,
        {
            "caption_projection_dim": 2432,
            "num_attention_heads": 38,
            "num_layers": 38,
            "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        },
    ),
    "vae": Model(AutoencoderKL, _VAE),
    "vae-of-16-channels": Model(
        AutoencoderKL,
        {**_VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
    ),
}


@cache
def _sd3_text_encoders() -> Tensors:
    with torch.device("meta"):
        encoders = {
            "clip_l": CLIPTextModelWithProjection(CLIPTextConfig(**_CLIP["clip_l"])),
            "clip_g": CLIPTextModelWithProjection(CLIPTextConfig(**_CLIP["clip_g"])),
            "t5xxl": T5EncoderModel(T5Config(**_T5)),
        }
    return {
        f"text_encoders.{place}.transformer.{name}": tensor
        for place, encoder in encoders.items()
        for name, tensor in _stored(encoder).items()
        if not name.endswith("position_ids")
    }


_CLIP: dict[str, dict[str, Any]] = {
    "clip_l": {"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768},
    "clip_g": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "projection_dim": 1280,
    },
}
_T5 = {
    "d_ff": 10240,
    "d_model": 4096,
    "feed_forward_proj": "gated-gelu",
    "num_heads": 64,
    "num_layers": 24,
    "vocab_size": 32128,
}


def sd3_file(name: str, *, text_encoders: bool) -> Tensors:
    """A published single file of SD 3 or 3.5."""
    return (
        original_file(DIFFUSERS_MODELS[name])
        | original_file(DIFFUSERS_MODELS["vae-of-16-channels"])
        | (_sd3_text_encoders() if text_encoders else {})
    )


def with_input_channels(name: str, channels: int) -> Tensors:
    """A published checkpoint whose UNet takes more channels, as its variants for editing do."""
    tensors = manifest(name)
    first = "model.diffusion_model.input_blocks.0.0.weight"
    dtype, (outputs, _, *kernel) = tensors[first]
    return tensors | {first: (dtype, [outputs, channels, *kernel])}


FULL_SIZE: dict[str, Callable[[], Tensors]] = {
    **{name: lambda name=name: manifest(name) for name in MANIFESTS if name != "sd20-depth"},
    "sd15-pix2pix": lambda: with_input_channels("sd15", 8),
    "sdxl-inpainting": lambda: with_input_channels("sdxl-base", 9),
    "sdxl-pix2pix": lambda: with_input_channels("sdxl-base", 8),
    "sd3-medium": lambda: sd3_file("sd3-medium", text_encoders=True),
    "sd35-medium": lambda: sd3_file("sd35-medium", text_encoders=True),
    "sd35-large": lambda: sd3_file("sd35-large", text_encoders=False),
}
"""Every family as a full-size single file."""
