"""The networks with the names, shapes and order of the Core ML interface.

Each wrapper holds a module of diffusers or transformers and gives it the inputs and outputs that
Apple's Swift package expects (apple/ml-stable-diffusion, ``torch2coreml.py`` and ``unet.py``).
Modules are built without data: their parameters are on torch's meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from corepress.domain.errors import InvalidRequest, UnsupportedCheckpoint, UnsupportedRecipe
from corepress_compile.attention import TokensLast
from corepress_compile.spec import BuildSpec
from corepress_compile.weights import Weights, open_weights

_TIME_IDS = {"sdxl-refiner": 5}
"""How many numbers SDXL's size conditioning has: 6, but the refiner's aesthetic score makes 5."""
_DEFAULT_TIME_IDS = 6


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a network: ``dtype`` is numpy's name of the type in the package."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Network:
    """A module for inference, its weights, and its positional inputs and outputs in order.

    The module's parameters have shapes but no data; ``weights`` are theirs, by the same names.
    """

    module: nn.Module
    weights: Weights
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]


class _TextEncoder(nn.Module):
    """SD1 and SD2: the last hidden state (or an earlier one, normalized as the last is)."""

    def __init__(self, encoder: Any, skipped: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.skipped = skipped

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        output = self.encoder(input_ids.to(torch.int32), output_hidden_states=self.skipped > 0)
        if not self.skipped:
            return output.last_hidden_state, output.pooler_output
        text_model = getattr(self.encoder, "text_model", self.encoder)
        hidden = output.hidden_states[-1 - self.skipped]
        return text_model.final_layer_norm(hidden), output.pooler_output


class _TextEncoderXL(nn.Module):
    """SDXL: a hidden state before the last layer, and the pooled (or projected) output."""

    def __init__(self, encoder: Any, skipped: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.skipped = skipped

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        output = self.encoder(input_ids.to(torch.int32), output_hidden_states=True)
        pooled = output.text_embeds if "text_embeds" in output else output.pooler_output
        return output.hidden_states[-1 - self.skipped], pooled


class _Unet(nn.Module):
    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.tokens_last = TokensLast()

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        time_ids: Tensor | None = None,
        text_embeds: Tensor | None = None,
    ) -> Tensor:
        conditions = None
        if time_ids is not None:
            conditions = {"time_ids": time_ids, "text_embeds": text_embeds}
        result: Tensor = self.unet(
            sample,
            timestep,
            self.tokens_last(encoder_hidden_states),
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]
        return result


class _VAEDecoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv or nn.Identity()
        self.decoder = vae.decoder

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self.decoder(self.post_quant_conv(z))
        return image


class _VAEEncoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        moments: Tensor = self.quant_conv(self.encoder(x))
        return moments


def load_network(spec: BuildSpec, folder: Path) -> Network:
    """The network of a model, from a component's folder, for inference in float32.

    Raises:
        CorruptCheckpoint: a weight file is not well-formed.
        IncompleteCheckpoint: weights are missing or have other shapes than the configuration says.
        InvalidRequest: ``clip_skip`` names a layer that the checkpoint hasn't.
        UnsupportedCheckpoint: the configuration is of a kind this version cannot convert.
    """
    return _LOADERS[spec.component](spec, folder)


def _load(kind: Any, folder: Path) -> Any:
    config = kind.load_config(folder, local_files_only=True)
    with torch.device("meta"):
        return kind.from_config(config)


def _text_encoder(spec: BuildSpec, folder: Path) -> Network:
    xl = spec.family.startswith("sdxl")
    projected = spec.component == "text_encoder_2"
    config = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        encoder = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    # SD2's OpenCLIP comes without its last layer, SDXL conditions on the one before the last
    ends_at = 2 if spec.family.startswith("sd2") else 1
    default = 2 if xl else ends_at
    skipped = (default if spec.clip_skip is None else spec.clip_skip) - ends_at
    layers = config.num_hidden_layers
    if not 0 <= skipped < layers:
        raise InvalidRequest(
            f"clip-skip {spec.clip_skip}: this text encoder's layers are "
            f"{ends_at} to {ends_at + layers - 1}, counted from the end",
            hint="leave --clip-skip out to use the layer that the family was trained with",
        )
    length = config.max_position_embeddings
    embeddings = (encoder.text_model if projected else encoder).embeddings
    embeddings.position_ids = torch.arange(length).expand(1, -1)  # a buffer that no file holds
    return _network(
        (_TextEncoderXL if xl else _TextEncoder)(encoder, skipped),
        folder,
        # transformers 5 has this prefix in one of the two classes, published files have it in both
        lambda name: ("" if projected else "text_model.") + name.removeprefix("encoder."),
        # ids are cast to integers at once, so float16 never rounds them
        [Input("input_ids", (1, length), "float32")],
        ("hidden_embeds" if xl else "last_hidden_state", "pooled_outputs"),
    )


def _unet(spec: BuildSpec, folder: Path) -> Network:
    unet = _load(UNet2DConditionModel, folder)
    config = unet.config
    if config.time_cond_proj_dim is not None or config.class_embed_type is not None:
        raise UnsupportedCheckpoint(
            "a UNet with a guidance or class embedding cannot be converted yet",
            path="unet/config.json",
        )
    height, width = _latent_size(spec)
    halvings = len(config.down_block_types) - 1
    if height % 2**halvings or width % 2**halvings:
        raise UnsupportedRecipe(
            f"a latent of {height}x{width} cannot be halved {halvings} times, as this UNet does",
            hint=f"use a size whose sides are multiples of {2**halvings * spec.vae_scale_factor}",
        )
    shapes: dict[str, tuple[int, ...]] = {
        "sample": (spec.batch, config.in_channels, height, width),
        "timestep": (spec.batch,),
        "encoder_hidden_states": (spec.batch, config.cross_attention_dim, 1, 77),
    }
    if config.addition_embed_type == "text_time":
        numbers = _TIME_IDS.get(spec.family, _DEFAULT_TIME_IDS)
        pooled = (
            config.projection_class_embeddings_input_dim - numbers * config.addition_time_embed_dim
        )
        shapes |= {"time_ids": (spec.batch, numbers), "text_embeds": (spec.batch, pooled)}
    return _network(
        _Unet(unet),
        folder,
        lambda name: name.removeprefix("unet."),
        [Input(name, shape, spec.precision) for name, shape in shapes.items()],
        ("noise_pred",),
    )


def _vae_decoder(spec: BuildSpec, folder: Path) -> Network:
    vae = _load(AutoencoderKL, folder)
    z = Input("z", (1, vae.config.latent_channels, *_latent_size(spec)), spec.precision)
    return _network(_VAEDecoder(vae), folder, str, [z], ("image",))


def _vae_encoder(spec: BuildSpec, folder: Path) -> Network:
    vae = _load(AutoencoderKL, folder)
    height, width = (side * spec.vae_scale_factor for side in _latent_size(spec))
    x = Input("x", (1, vae.config.in_channels, height, width), spec.precision)
    return _network(_VAEEncoder(vae), folder, str, [x], ("latent",))


def _network(
    module: nn.Module,
    folder: Path,
    stored_name: Callable[[str], str],
    inputs: list[Input],
    outputs: tuple[str, ...],
) -> Network:
    module.eval().requires_grad_(requires_grad=False)
    weights = open_weights(folder, module, stored_name)
    return Network(module, weights, tuple(inputs), outputs)


def _latent_size(spec: BuildSpec) -> tuple[int, int]:
    assert spec.latent_size is not None, f"{spec.component} has a size"
    return spec.latent_size


_LOADERS: Mapping[str, Callable[[BuildSpec, Path], Network]] = {
    "text_encoder": _text_encoder,
    "text_encoder_2": _text_encoder,
    "unet": _unet,
    "vae_decoder": _vae_decoder,
    "vae_encoder": _vae_encoder,
}
