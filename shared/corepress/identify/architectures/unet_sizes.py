"""The sizes that a UNet, or a ControlNet, in the original layout was built with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corepress.identify.architectures.part import Part
from corepress.identify.architectures.unet import (
    ATTENTION_DOWN,
    ATTENTION_UP,
    PLAIN_DOWN,
    PLAIN_MID,
    PLAIN_UP,
)

_BLOCK = re.compile(r"(input_blocks|output_blocks|middle_block)\.(\d{1,3})\.(.+)")
_DEPTH = re.compile(r"(?:1\.)?transformer_blocks\.(\d{1,3})\.")
_RESAMPLER = re.compile(r"0\.op\.|[12]\.conv\.")
_RESNET_OUTPUT = re.compile(r"0\.(?:in_layers\.2|emb_layers\.1|out_layers\.0|out_layers\.3)\.")


@dataclass(slots=True)
class _Block:
    """What the tensors of one numbered block tell: witnesses of its channels, and the rest."""

    channels: list[int] = field(default_factory=list)
    depth: int = 0
    resamples: bool = False


@dataclass(slots=True)
class _Level:
    """One resolution: witnesses of its channels, and the transformers' depth per layer."""

    channels: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    up: list[int] = field(default_factory=list)

    @property
    def depths(self) -> set[int]:
        """The depths in use; a layer without a transformer beside others has lost its own."""
        return {*self.down, *self.up} - {0}


def unet_sizes(part: Part) -> dict[str, Any]:
    """The sizes of a UNet or a ControlNet, named as in diffusers' configuration.

    Raises:
        IncompleteCheckpoint: all tensors that tell a size are missing.
    """
    blocks = _blocks(part)
    levels = _levels(blocks)
    middle = blocks["middle_block"]
    mid_depth = middle[1].depth if 1 in middle else 0
    sizes: dict[str, Any] = {
        "block_out_channels": [
            part.agreed(f"channels of level {index}", level.channels)
            for index, level in enumerate(levels)
        ],
        "cross_attention_dim": part.agreed("context width", _context_widths(part)),
        "down_block_types": [ATTENTION_DOWN if level.depths else PLAIN_DOWN for level in levels],
        "in_channels": part.agreed(
            "input channels", part.axis("input_blocks.0.0.weight", 1) or [4]
        ),
        "layers_per_block": part.agreed("layers", [len(level.down) for level in levels]),
        "use_linear_projection": part.agreed("projections", _projection_axes(part)) == 2,  # noqa: PLR2004
        **_depth_settings(levels, mid_depth),
    }
    if blocks["output_blocks"]:
        sizes["up_block_types"] = [
            ATTENTION_UP if level.depths else PLAIN_UP for level in reversed(levels)
        ]
        sizes["out_channels"] = part.agreed("output channels", part.axis("out.2.bias", 0) or [4])
    if not middle.keys() & {1, 2}:
        sizes["mid_block_type"] = PLAIN_MID
    if guidance := part.axis("time_embed.cond_proj.weight", 1):
        sizes["time_cond_proj_dim"] = guidance[0]
    if any(name.startswith("label_emb.") for name in part.tensors):
        sizes["projection_class_embeddings_input_dim"] = part.agreed(
            "width of the size conditioning", part.axis("label_emb.0.0.weight", 1)
        )
    return sizes


def _blocks(part: Part) -> Mapping[str, dict[int, _Block]]:
    blocks: dict[str, dict[int, _Block]] = {
        "input_blocks": {},
        "middle_block": {},
        "output_blocks": {},
    }
    for name, tensor in part.tensors.items():
        match = _BLOCK.fullmatch(name)
        if match is None:
            continue
        block = blocks[match[1]].setdefault(int(match[2]), _Block())
        if depth := _DEPTH.match(match[3]):
            block.depth = max(block.depth, int(depth[1]) + 1)
        elif _RESAMPLER.match(match[3]):
            block.resamples = True
        elif _RESNET_OUTPUT.match(match[3]) and tensor.shape:
            block.channels.append(tensor.shape[0])
    return blocks


def _levels(blocks: Mapping[str, dict[int, _Block]]) -> list[_Level]:
    """Numbered blocks grouped by resolution.

    A downsampler is a block of its own between two levels; an upsampler sits in the block that
    ends its level.
    """
    levels = [_Level()]
    for _, block in sorted(blocks["input_blocks"].items()):
        if block.resamples:
            levels.append(_Level())
        elif block.channels:  # all but the input convolution
            levels[-1].channels.extend(block.channels)
            levels[-1].down.append(block.depth)
    ups: list[list[_Block]] = [[]]
    for _, block in sorted(blocks["output_blocks"].items()):
        ups[-1].append(block)
        if block.resamples:
            ups.append([])
    if len(ups) == len(levels):  # otherwise an upsampler is missing, and the walk will say so
        for level, up in zip(levels, reversed(ups), strict=True):
            level.channels.extend(size for block in up for size in block.channels)
            level.up.extend(block.depth for block in up)
    return levels


def _context_widths(part: Part) -> list[int]:
    names = ("attn2.to_k.weight", "attn2.to_v.weight")
    return [
        tensor.shape[-1]
        for name, tensor in part.tensors.items()
        if name.endswith(names) and tensor.shape
    ]


def _projection_axes(part: Part) -> list[int]:
    names = ("proj_in.weight", "proj_out.weight")
    return [len(tensor.shape) for name, tensor in part.tensors.items() if name.endswith(names)]


def _depth_settings(levels: Sequence[_Level], mid_depth: int) -> dict[str, Any]:
    """diffusers' ``transformer_layers_per_block``, whose last entry is also the mid block's."""
    last = mid_depth or max(levels[-1].depths, default=1)
    uniform = [*(level.depths for level in levels[:-1]), levels[-1].depths | {last}]
    if all(len(depths) <= 1 for depths in uniform):
        if all(depths <= {last} for depths in uniform):
            return {"transformer_layers_per_block": last}
        return {"transformer_layers_per_block": [max(d, default=1) for d in uniform]}
    return {
        "transformer_layers_per_block": [
            [depth or 1 for depth in level.down] if level.depths else 1 for level in levels
        ],
        "reverse_transformer_layers_per_block": [
            [depth or 1 for depth in level.up] if level.depths else 1 for level in reversed(levels)
        ],
    }
