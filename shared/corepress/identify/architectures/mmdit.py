"""The transformer of SD 3 and 3.5: diffusers' SD3Transformer2DModel, sgm's MMDiT."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isqrt
from typing import Any

from corepress.domain.errors import UnsupportedCheckpoint
from corepress.identify.architectures.parameter import Parameter, conv, linear
from corepress.identify.architectures.part import Part

_HEAD_CHANNELS = 64
"""The channels of a head in every published MMDiT."""

_TIMESTEP_CHANNELS = 256
_NORMS = (None, "rms_norm")
_BLOCK = re.compile(r"(?:joint_blocks|transformer_blocks)\.(\d{1,3})\.(.+)")
_SECOND_ATTENTION = ("attn2.", "x_block.attn2.")
_QUERY_NORMS = ("attn.ln_q.weight", "attn.norm_q.weight")

_NAMES = {
    True: {
        "patches": "x_embedder.proj.weight",
        "positions": "pos_embed",
        "context": "context_embedder.weight",
        "pooled": "y_embedder.mlp.0.weight",
        "output": "final_layer.linear.bias",
    },
    False: {
        "patches": "pos_embed.proj.weight",
        "positions": "pos_embed.pos_embed",
        "context": "context_embedder.weight",
        "pooled": "time_text_embed.text_embedder.linear_1.weight",
        "output": "proj_out.bias",
    },
}
"""The tensors that tell sizes, in the original layout and in diffusers'."""


def mmdit_parameters(config: Mapping[str, Any]) -> Iterator[Parameter]:
    """Every parameter of the transformer that a diffusers configuration describes.

    Raises:
        UnsupportedCheckpoint: its attention is normalized in a way that no walk covers.
    """
    if config.get("qk_norm") not in _NORMS:
        raise UnsupportedCheckpoint(f"a transformer with qk_norm {config['qk_norm']!r}")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    patch, positions = config["patch_size"], config["pos_embed_max_size"]
    yield Parameter("pos_embed.pos_embed", "pos_embed", (1, positions**2, width))
    yield from conv("pos_embed.proj", "x_embedder.proj", width, config["in_channels"], patch)
    for new, old, inputs in (
        ("timestep_embedder", "t_embedder", _TIMESTEP_CHANNELS),
        ("text_embedder", "y_embedder", config["pooled_projection_dim"]),
    ):
        yield from linear(f"time_text_embed.{new}.linear_1", f"{old}.mlp.0", width, inputs)
        yield from linear(f"time_text_embed.{new}.linear_2", f"{old}.mlp.2", width, width)
    yield from linear(
        "context_embedder",
        "context_embedder",
        config["caption_projection_dim"],
        config["joint_attention_dim"],
    )
    layers = config["num_layers"]
    for index in range(layers):
        yield from _block(config, index, width, last=index == layers - 1)
    last_norm = "norm_out.linear", "final_layer.adaLN_modulation.1"
    yield from _swapped(linear(*last_norm, 2 * width, width))
    outputs = patch**2 * (config.get("out_channels") or config["in_channels"])
    yield from linear("proj_out", "final_layer.linear", outputs, width)


def transformer_channels(part: Part) -> int:
    """The channels of the transformer's input; 16 where the tensor that tells them is missing."""
    return part.agreed("input channels", part.axis(_NAMES[part.original]["patches"], 1) or [16])


def mmdit_sizes(part: Part) -> dict[str, Any]:
    """The sizes of a transformer in either layout, named as in diffusers' configuration.

    Raises:
        IncompleteCheckpoint: all tensors that tell a size are missing.
    """
    names = _NAMES[part.original]

    def size(what: str, name: str, axis: int, published: int) -> int:
        return part.agreed(what, part.axis(names[name], axis) or [published])

    blocks = [match.groups() for name in part.tensors if (match := _BLOCK.fullmatch(name))]
    width = part.agreed(
        "width", [*part.axis(names["patches"], 0), *part.axis(names["positions"], 2)]
    )
    patch = size("size of patches", "patches", 2, 2)
    heads = [n for name in part.tensors if name.endswith(_QUERY_NORMS) for n in part.axis(name, 0)]
    sizes: dict[str, Any] = {
        "caption_projection_dim": size("width of the embedded text", "context", 0, width),
        "dual_attention_layers": sorted(
            {int(index) for index, rest in blocks if rest.startswith(_SECOND_ATTENTION)}
        ),
        "in_channels": transformer_channels(part),
        "joint_attention_dim": size("width of the text", "context", 1, 4096),
        "num_layers": max((int(index) for index, _ in blocks), default=-1) + 1,
        "out_channels": size("output channels", "output", 0, 64) // patch**2,
        "patch_size": patch,
        "pooled_projection_dim": size("width of the pooled text", "pooled", 1, 2048),
        "pos_embed_max_size": isqrt(size("positions", "positions", 1, 192**2)),
        "qk_norm": "rms_norm" if heads else None,
    }
    head_channels = part.agreed("channels of a head", heads) if heads else _HEAD_CHANNELS
    if width % head_channels == 0:
        sizes["attention_head_dim"] = head_channels
        sizes["num_attention_heads"] = width // head_channels
    return sizes


def _block(config: Mapping[str, Any], index: int, width: int, *, last: bool) -> Iterator[Parameter]:
    """A block for image and text; the last one has no use for the text that it would give."""
    new, old = f"transformer_blocks.{index}", f"joint_blocks.{index}"
    image, text = f"{old}.x_block", f"{old}.context_block"
    second = index in (config.get("dual_attention_layers") or ())

    yield from linear(
        f"{new}.norm1.linear", f"{image}.adaLN_modulation.1", (9 if second else 6) * width, width
    )
    # the shift and scale of a norm without a gate are swapped in diffusers' AdaLayerNormContinuous
    context_norm = f"{new}.norm1_context.linear", f"{text}.adaLN_modulation.1"
    if last:
        yield from _swapped(linear(*context_norm, 2 * width, width))
    else:
        yield from linear(*context_norm, 6 * width, width)

    yield from _attention(config, f"{new}.attn", f"{image}.attn", width, ("to_q", "to_k", "to_v"))
    yield from linear(f"{new}.attn.to_out.0", f"{image}.attn.proj", width, width)
    yield from _attention(
        config, f"{new}.attn", f"{text}.attn", width, ("add_q_proj", "add_k_proj", "add_v_proj")
    )
    if second:
        yield from _attention(
            config, f"{new}.attn2", f"{image}.attn2", width, ("to_q", "to_k", "to_v")
        )
        yield from linear(f"{new}.attn2.to_out.0", f"{image}.attn2.proj", width, width)
    yield from _feed_forward(f"{new}.ff", f"{image}.mlp", width)
    if not last:
        yield from linear(f"{new}.attn.to_add_out", f"{text}.attn.proj", width, width)
        yield from _feed_forward(f"{new}.ff_context", f"{text}.mlp", width)


def _attention(
    config: Mapping[str, Any], name: str, original: str, width: int, projections: tuple[str, ...]
) -> Iterator[Parameter]:
    """Query, key and value, which the original fuses, and their norms where there are such."""
    for third, projection in enumerate(projections):
        for kind, shape in (("weight", (width, width)), ("bias", (width,))):
            yield Parameter(
                f"{name}.{projection}.{kind}", f"{original}.qkv.{kind}", shape, third=third
            )
    if config.get("qk_norm") is not None:
        added = "added_" if projections[0].startswith("add") else ""
        for letter in "qk":
            yield Parameter(
                f"{name}.norm_{added}{letter}.weight",
                f"{original}.ln_{letter}.weight",
                (config["attention_head_dim"],),
            )


def _feed_forward(name: str, original: str, width: int) -> Iterator[Parameter]:
    yield from linear(f"{name}.net.0.proj", f"{original}.fc1", 4 * width, width)
    yield from linear(f"{name}.net.2", f"{original}.fc2", width, 4 * width)


def _swapped(parameters: Iterator[Parameter]) -> Iterator[Parameter]:
    return (replace(parameter, swap_halves=True) for parameter in parameters)
