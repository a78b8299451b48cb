"""The networks with the names, shapes and order of the Core ML interface.

Each wrapper holds a module of diffusers or transformers and gives it the inputs and outputs that
Apple's Swift package expects (apple/ml-stable-diffusion, ``torch2coreml.py`` and ``unet.py``).
Modules are built without data: their parameters are on torch's meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from corepress.domain.errors import InvalidRequest
from corepress_compile.denoisers import controlled_unet, controlnet, unet
from corepress_compile.network import Input, Network, latent_size, module_without_data
from corepress_compile.safety_checker import safety_checker
from corepress_compile.spec import BuildSpec

_OPEN_CLIP_H_LAYERS = 24
"""Of SD2's text encoder, counted with the last one, which the UNet was trained without."""


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


def _text_encoder(spec: BuildSpec, folder: Path) -> Network:
    xl = spec.family.startswith("sdxl")
    projected = spec.component == "text_encoder_2"
    config = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        encoder = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    # SD2's OpenCLIP mostly comes without its last layer, SDXL conditions on the one before the last
    whole = config.num_hidden_layers >= _OPEN_CLIP_H_LAYERS
    ends_at = 2 if spec.family.startswith("sd2") and not whole else 1
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
    return Network.of(
        (_TextEncoderXL if xl else _TextEncoder)(encoder, skipped),
        folder,
        # transformers 5 has this prefix in one of the two classes, published files have it in both
        lambda name: ("" if projected else "text_model.") + name.removeprefix("encoder."),
        # ids are cast to integers at once, so float16 never rounds them
        [Input("input_ids", (1, length), "float32")],
        ("hidden_embeds" if xl else "last_hidden_state", "pooled_outputs"),
    )


def _vae_decoder(spec: BuildSpec, folder: Path) -> Network:
    vae = module_without_data(AutoencoderKL, folder)
    z = Input("z", (1, vae.config.latent_channels, *latent_size(spec)), spec.precision)
    return Network.of(_VAEDecoder(vae), folder, str, [z], ("image",))


def _vae_encoder(spec: BuildSpec, folder: Path) -> Network:
    vae = module_without_data(AutoencoderKL, folder)
    height, width = (side * spec.vae_scale_factor for side in latent_size(spec))
    x = Input("x", (1, vae.config.in_channels, height, width), spec.precision)
    return Network.of(_VAEEncoder(vae), folder, str, [x], ("latent",))


_LOADERS: Mapping[str, Callable[[BuildSpec, Path], Network]] = {
    "text_encoder": _text_encoder,
    "text_encoder_2": _text_encoder,
    "unet": unet,
    "controlled_unet": controlled_unet,
    "vae_decoder": _vae_decoder,
    "vae_encoder": _vae_encoder,
    "controlnet": controlnet,
    "unet_refiner": unet,
    "safety_checker": safety_checker,
}
