"""The ControlNet: diffusers' ControlNetModel, cldm's ControlNet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from corepress.identify.architectures.parameter import Parameter, conv
from corepress.identify.architectures.part import Part
from corepress.identify.architectures.unet import levels, skip_channels, unet_encoder
from corepress.identify.architectures.unet_sizes import unet_sizes

_ORIGINAL_HINT = re.compile(r"input_hint_block\.(\d{1,3})\.(?:weight|bias)")
_HINT = re.compile(r"controlnet_cond_embedding\.(?:conv_in|blocks\.(\d{1,3}))\.(?:weight|bias)")
_HINT_WIDTHS = (16, 32, 96, 256)


def controlnet_parameters(config: Mapping[str, Any]) -> Iterator[Parameter]:
    """Every parameter of the ControlNet that a diffusers configuration describes."""
    ladder = levels(config)
    yield from unet_encoder(config)
    yield from _hint(config, ladder[0].channels)
    for index, channels in enumerate(skip_channels(ladder)):
        yield from conv(
            f"controlnet_down_blocks.{index}", f"zero_convs.{index}.0", channels, channels, 1
        )
    channels = ladder[-1].channels
    yield from conv("controlnet_mid_block", "middle_block_out.0", channels, channels, 1)


def controlnet_sizes(part: Part) -> dict[str, Any]:
    """The sizes of a ControlNet in either layout, named as in diffusers' configuration."""
    first = "input_hint_block.0" if part.original else "controlnet_cond_embedding.conv_in"
    return {
        **unet_sizes(part),
        "conditioning_channels": part.agreed(
            "condition's channels", part.axis(f"{first}.weight", 1) or [3]
        ),
        "conditioning_embedding_out_channels": _hint_widths(part) or list(_HINT_WIDTHS),
    }


def _hint_widths(part: Part) -> list[int]:
    """The widths of the hint's network: of its first convolution, then one for each later pair."""
    seen: dict[int, list[int]] = {}
    for name, tensor in part.tensors.items():
        match = (_ORIGINAL_HINT if part.original else _HINT).fullmatch(name)
        if match and tensor.shape:
            # the original counts activations too: its first is 0, its pairs 2 and 4, 6 and 8, ...
            index = int(match[1]) // 2 if part.original else int(match[1] or -1) + 1
            seen.setdefault(index, []).append(tensor.shape[0])
    return [part.agreed("hint's channels", seen[index]) for index in sorted(seen) if not index % 2]


def _hint(config: Mapping[str, Any], outputs: int) -> Iterator[Parameter]:
    """The small network that brings the condition's image to the latent's size."""
    new, old = "controlnet_cond_embedding", "input_hint_block"
    widths = config.get("conditioning_embedding_out_channels") or _HINT_WIDTHS
    yield from conv(f"{new}.conv_in", f"{old}.0", widths[0], config.get("conditioning_channels", 3))
    pairs = list(pairwise(widths))
    for index, (inputs, wider) in enumerate(pairs):
        yield from conv(f"{new}.blocks.{2 * index}", f"{old}.{4 * index + 2}", inputs, inputs)
        yield from conv(f"{new}.blocks.{2 * index + 1}", f"{old}.{4 * index + 4}", wider, inputs)
    yield from conv(f"{new}.conv_out", f"{old}.{4 * len(pairs) + 2}", outputs, widths[-1])
