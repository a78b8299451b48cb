"""The variational autoencoder: diffusers' AutoencoderKL, LDM's and sgm's autoencoder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from corepress.domain.errors import UnsupportedCheckpoint
from corepress.identify.architectures.parameter import Parameter, conv, linear, norm
from corepress.identify.architectures.part import Part
from corepress.identify.architectures.unet import per_level

_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
_OLD_ATTENTION_NAMES = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_OLD_ATTENTION = re.compile(r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)")

_RESNET_OUTPUT = re.compile(
    r"encoder\.down(?:_blocks)?\.(\d{1,3})\.(?:block|resnets)\.(\d{1,3})\."
    r"(?:conv1|conv2|norm2)\.(?:weight|bias)"
)
_MIDDLE_ATTENTION = ("mid.attn_1.", "mid_block.attentions.")
_CLASSIC_LATENT_CHANNELS = 4


def modern_name(name: str) -> str:
    """Today's name of a parameter, also for names from before diffusers 0.17."""
    return _OLD_ATTENTION.sub(lambda match: _OLD_ATTENTION_NAMES[match[0]], name)


def vae_parameters(config: Mapping[str, Any]) -> Iterator[Parameter]:
    """Every parameter of the autoencoder that a diffusers configuration describes.

    Raises:
        UnsupportedCheckpoint: the configuration has block types that no walk covers.
    """
    unknown = {*config["down_block_types"], *config["up_block_types"]} - {_DOWN, _UP}
    if unknown:
        raise UnsupportedCheckpoint(f"a VAE with blocks of type {sorted(map(str, unknown))}")
    channels = config["block_out_channels"]
    latent = config.get("latent_channels", 4)
    yield from _encoder(config, channels, latent)
    yield from _decoder(config, channels, latent)
    if config.get("use_quant_conv", True):
        yield from conv("quant_conv", "quant_conv", 2 * latent, 2 * latent, kernel=1)
    if config.get("use_post_quant_conv", True):
        yield from conv("post_quant_conv", "post_quant_conv", latent, latent, kernel=1)


def vae_sizes(part: Part) -> dict[str, Any]:
    """The sizes of an autoencoder in either layout, named as in diffusers' configuration.

    Raises:
        IncompleteCheckpoint: all tensors that tell a size are missing.
    """
    blocks: dict[int, dict[int, list[int]]] = {}
    for name, tensor in part.tensors.items():
        match = _RESNET_OUTPUT.fullmatch(name)
        if match and tensor.shape:
            level = blocks.setdefault(int(match[1]), {})
            level.setdefault(int(match[2]), []).append(tensor.shape[0])
    channels = [
        part.agreed(f"channels of level {level}", chain(*blocks.get(level, {}).values()))
        for level in range(max(blocks, default=0) + 1)
    ]
    latent = [
        *part.axis("decoder.conv_in.weight", 1),
        *part.axis("post_quant_conv.weight", 0),
        *(size // 2 for size in part.axis("encoder.conv_out.weight", 0)),
    ]
    sizes: dict[str, Any] = {
        "block_out_channels": channels,
        "down_block_types": [_DOWN] * len(channels),
        "in_channels": part.agreed("input channels", part.axis("encoder.conv_in.weight", 1) or [3]),
        "latent_channels": part.agreed("latent channels", latent),
        "layers_per_block": max(max(level) for level in blocks.values()) + 1,
        "out_channels": part.agreed(
            "output channels", part.axis("decoder.conv_out.weight", 0) or [3]
        ),
        "up_block_types": [_UP] * len(channels),
    }
    # what diffusers has as its default is not written down
    if not any(mark in name for name in part.tensors for mark in _MIDDLE_ATTENTION):
        sizes["mid_block_add_attention"] = False
    if sizes["latent_channels"] != _CLASSIC_LATENT_CHANNELS:  # there, nothing may do without
        for layer in ("quant_conv", "post_quant_conv"):
            if not any(name.startswith(f"{layer}.") for name in part.tensors):
                sizes[f"use_{layer}"] = False
    return sizes


def _encoder(config: Mapping[str, Any], channels: list[int], latent: int) -> Iterator[Parameter]:
    yield from conv(*_both("encoder.conv_in"), channels[0], config.get("in_channels", 3))
    inputs = channels[0]
    layers = per_level(config.get("layers_per_block", 1), len(channels))
    for level, outputs in enumerate(channels):
        new, old = f"encoder.down_blocks.{level}", f"encoder.down.{level}"
        for layer in range(layers[level]):
            yield from _resnet(f"{new}.resnets.{layer}", f"{old}.block.{layer}", inputs, outputs)
            inputs = outputs
        if level < len(channels) - 1:
            new, old = f"{new}.downsamplers.0.conv", f"{old}.downsample.conv"
            yield from conv(new, old, outputs, outputs)
    yield from _middle(config, "encoder", inputs)
    yield from norm("encoder.conv_norm_out", "encoder.norm_out", inputs)
    yield from conv(*_both("encoder.conv_out"), 2 * latent, inputs)


def _decoder(config: Mapping[str, Any], channels: list[int], latent: int) -> Iterator[Parameter]:
    inputs = channels[-1]
    yield from conv(*_both("decoder.conv_in"), inputs, latent)
    yield from _middle(config, "decoder", inputs)
    layers = per_level(config.get("layers_per_block", 1), len(channels))
    for level in reversed(range(len(channels))):
        outputs = channels[level]
        new, old = f"decoder.up_blocks.{len(channels) - 1 - level}", f"decoder.up.{level}"
        for layer in range(layers[level] + 1):
            yield from _resnet(f"{new}.resnets.{layer}", f"{old}.block.{layer}", inputs, outputs)
            inputs = outputs
        if level:
            yield from conv(f"{new}.upsamplers.0.conv", f"{old}.upsample.conv", outputs, outputs)
    yield from norm("decoder.conv_norm_out", "decoder.norm_out", inputs)
    yield from conv(*_both("decoder.conv_out"), config.get("out_channels", 3), inputs)


def _middle(config: Mapping[str, Any], half: str, channels: int) -> Iterator[Parameter]:
    new, old = f"{half}.mid_block", f"{half}.mid"
    yield from _resnet(f"{new}.resnets.0", f"{old}.block_1", channels, channels)
    if config.get("mid_block_add_attention", True):
        attention, original = f"{new}.attentions.0", f"{old}.attn_1"
        yield from norm(f"{attention}.group_norm", f"{original}.norm", channels)
        # 1x1 convolutions in the original: the same bytes under a longer shape
        yield from linear(f"{attention}.to_q", f"{original}.q", channels, channels)
        yield from linear(f"{attention}.to_k", f"{original}.k", channels, channels)
        yield from linear(f"{attention}.to_v", f"{original}.v", channels, channels)
        yield from linear(f"{attention}.to_out.0", f"{original}.proj_out", channels, channels)
    yield from _resnet(f"{new}.resnets.1", f"{old}.block_2", channels, channels)


def _resnet(name: str, original: str, inputs: int, outputs: int) -> Iterator[Parameter]:
    yield from norm(f"{name}.norm1", f"{original}.norm1", inputs)
    yield from conv(f"{name}.conv1", f"{original}.conv1", outputs, inputs)
    yield from norm(f"{name}.norm2", f"{original}.norm2", outputs)
    yield from conv(f"{name}.conv2", f"{original}.conv2", outputs, outputs)
    if inputs != outputs:
        yield from conv(
            f"{name}.conv_shortcut", f"{original}.nin_shortcut", outputs, inputs, kernel=1
        )


def _both(name: str) -> tuple[str, str]:
    return name, name
