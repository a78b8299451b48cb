"""The sizes that a UNet, or a ControlNet, was built with, off its tensors in either layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corepress.identify.architectures.part import Part
from corepress.identify.architectures.unet import (
    ATTENTION_DOWN,
    ATTENTION_UP,
    PLAIN_DOWN,
    PLAIN_MID,
    PLAIN_UP,
)
from corepress.identify.architectures.unet_skeleton import Level, Skeleton, unet_skeleton

_NAMES = {
    True: {
        "input": "input_blocks.0.0.weight",
        "output": "out.2.bias",
        "guidance": "time_embed.cond_proj.weight",
        "sizes": "label_emb.0.0.weight",
    },
    False: {
        "input": "conv_in.weight",
        "output": "conv_out.bias",
        "guidance": "time_embedding.cond_proj.weight",
        "sizes": "add_embedding.linear_1.weight",
    },
}
"""The tensors that tell a size by themselves, in the original layout and in diffusers'."""


def input_channels(part: Part) -> int:
    """The channels of the network's input; 4 where the tensor that tells them is missing."""
    return part.agreed("input channels", part.axis(_NAMES[part.original]["input"], 1) or [4])


def has_size_conditioning(part: Part) -> bool:
    """Whether there is SDXL's embedding of sizes."""
    marks = ("label_emb.", "add_embedding.")
    return any(name.startswith(marks) for name in part.tensors)


def has_linear_projection(part: Part) -> bool:
    """Whether most layers around attention are linear; False where there is no attention."""
    axes = _projection_axes(part)
    return axes.count(2) > len(axes) / 2


def context_width(part: Part) -> int:
    """The width of the text's embedding.

    Raises:
        IncompleteCheckpoint: all tensors that tell it are missing.
    """
    names = ("attn2.to_k.weight", "attn2.to_v.weight")
    return part.agreed(
        "context width",
        [
            tensor.shape[-1]
            for name, tensor in part.tensors.items()
            if name.endswith(names) and tensor.shape
        ],
    )


def unet_sizes(part: Part) -> dict[str, Any]:
    """The sizes of a UNet or a ControlNet, named as in diffusers' configuration.

    Without any attention (SDXL's small ControlNets) nothing tells the settings of attention, and
    they are left out.

    Raises:
        IncompleteCheckpoint: all tensors that tell a size are missing.
    """
    names = _NAMES[part.original]
    skeleton = unet_skeleton(part)
    levels = skeleton.levels
    sizes: dict[str, Any] = {
        "block_out_channels": [
            part.agreed(f"channels of level {index}", level.channels)
            for index, level in enumerate(levels)
        ],
        "down_block_types": [ATTENTION_DOWN if level.depths else PLAIN_DOWN for level in levels],
        "in_channels": input_channels(part),
        "layers_per_block": part.agreed("layers", [len(level.down) for level in levels]),
        **_depth_settings(levels, skeleton.middle_depth),
        **_middle_setting(skeleton),
    }
    if skeleton.middle_depth or any(level.depths for level in levels):
        sizes["cross_attention_dim"] = context_width(part)
        sizes["use_linear_projection"] = has_linear_projection(part)
    if skeleton.has_up:
        sizes["up_block_types"] = [
            ATTENTION_UP if level.depths else PLAIN_UP for level in reversed(levels)
        ]
        sizes["out_channels"] = part.agreed("output channels", part.axis(names["output"], 0) or [4])
    if guidance := part.axis(names["guidance"], 1):
        sizes["time_cond_proj_dim"] = guidance[0]
    if has_size_conditioning(part):
        sizes["projection_class_embeddings_input_dim"] = part.agreed(
            "width of the size conditioning", part.axis(names["sizes"], 1)
        )
    return sizes


def _projection_axes(part: Part) -> list[int]:
    names = ("proj_in.weight", "proj_out.weight")
    return [len(tensor.shape) for name, tensor in part.tensors.items() if name.endswith(names)]


def _middle_setting(skeleton: Skeleton) -> dict[str, Any]:
    if skeleton.middle_depth is not None:
        return {}
    # distilled models with one layer per level (KOALA, BK-SDM) have nothing in the middle;
    # from any other it is missing
    distilled = all(len(level.down) == 1 for level in skeleton.levels)
    return {"mid_block_type": None if distilled and not skeleton.has_middle else PLAIN_MID}


def _depth_settings(levels: Sequence[Level], middle_depth: int | None) -> dict[str, Any]:
    """diffusers' ``transformer_layers_per_block``, whose last entry is also the mid block's."""
    last = middle_depth or max(levels[-1].depths, default=1)
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
