"""The UNet of SD 1.x, 2.x and SDXL: diffusers' UNet2DConditionModel, LDM's and sgm's UNetModel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from corepress.domain.errors import UnsupportedCheckpoint
from corepress.identify.architectures.parameter import Parameter, conv, linear, norm

ATTENTION_DOWN = "CrossAttnDownBlock2D"
ATTENTION_UP = "CrossAttnUpBlock2D"
ATTENTION_MID = "UNetMidBlock2DCrossAttn"
PLAIN_DOWN = "DownBlock2D"
PLAIN_UP = "UpBlock2D"
PLAIN_MID = "UNetMidBlock2D"

_BLOCKS = {ATTENTION_DOWN, ATTENTION_UP, PLAIN_DOWN, PLAIN_UP}
_MIDDLE_BLOCKS = (ATTENTION_MID, PLAIN_MID, None)
_ONLY_KNOWN_AS: Mapping[str, tuple[Any, ...]] = {
    "addition_embed_type": (None, "text_time"),
    "attention_type": (None, "default"),
    "class_embed_type": (None,),
    "class_embeddings_concat": (None, False),
    "conv_in_kernel": (None, 3),
    "conv_out_kernel": (None, 3),
    "cross_attention_norm": (None,),
    "dual_cross_attention": (None, False),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (None, False),
    "resnet_time_scale_shift": (None, "default"),
    "time_embedding_type": (None, "positional"),
}


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a UNet: its channels, and per layer the depth of its transformers.

    ``down`` has an entry per layer of the down block, ``up`` one more; 0 is a layer without
    attention.
    """

    channels: int
    context: int
    down: tuple[int, ...]
    up: tuple[int, ...]


def levels(config: Mapping[str, Any]) -> list[Level]:
    """The levels that a configuration describes, from full resolution downwards.

    Raises:
        UnsupportedCheckpoint: the configuration has a feature that no walk covers.
    """
    _refuse_unknown(config)
    channels: Sequence[int] = config["block_out_channels"]
    down_types = config["down_block_types"]
    up_types = list(config.get("up_block_types") or [PLAIN_UP] * len(channels))[::-1]
    layers = per_level(config["layers_per_block"], len(channels))
    context = per_level(config["cross_attention_dim"], len(channels))
    depth = per_level(config.get("transformer_layers_per_block", 1), len(channels))
    up_depth = config.get("reverse_transformer_layers_per_block")
    up_depth = depth if up_depth is None else list(up_depth)[::-1]
    return [
        Level(
            channels[i],
            context[i],
            _depths(depth[i], layers[i], attention=down_types[i] == ATTENTION_DOWN),
            _depths(up_depth[i], layers[i] + 1, attention=up_types[i] == ATTENTION_UP),
        )
        for i in range(len(channels))
    ]


def unet_parameters(config: Mapping[str, Any]) -> Iterator[Parameter]:
    """Every parameter of the UNet that a diffusers configuration describes."""
    ladder = levels(config)
    linear_projection = bool(config.get("use_linear_projection"))
    base = ladder[0].channels
    time_channels = config.get("time_embedding_dim") or 4 * base
    yield from unet_encoder(config)
    skips = list(skip_channels(ladder))
    inputs = ladder[-1].channels
    index = count()
    for block, level in enumerate(reversed(ladder)):
        for layer, depth in enumerate(level.up):
            new, old = f"up_blocks.{block}", f"output_blocks.{next(index)}"
            yield from _resnet(
                f"{new}.resnets.{layer}",
                f"{old}.0",
                inputs + skips.pop(),
                level.channels,
                time_channels,
            )
            inputs = level.channels
            if depth:
                yield from _transformer(
                    f"{new}.attentions.{layer}", f"{old}.1", level, depth, linear_projection
                )
            if layer == len(level.up) - 1 and level is not ladder[0]:
                # the original counts its modules: the upsampler comes behind the attention
                position = 2 if depth else 1
                yield from conv(
                    f"{new}.upsamplers.0.conv", f"{old}.{position}.conv", inputs, inputs
                )
    yield from norm("conv_norm_out", "out.0", base)
    yield from conv("conv_out", "out.2", config.get("out_channels", 4), base)


def unet_encoder(config: Mapping[str, Any]) -> Iterator[Parameter]:
    """What a ControlNet shares with its UNet: embeddings, down blocks and the mid block."""
    ladder = levels(config)
    linear_projection = bool(config.get("use_linear_projection"))
    base = ladder[0].channels
    time_channels = config.get("time_embedding_dim") or 4 * base
    yield from conv("conv_in", "input_blocks.0.0", base, config.get("in_channels", 4))
    yield from linear("time_embedding.linear_1", "time_embed.0", time_channels, base)
    yield from linear("time_embedding.linear_2", "time_embed.2", time_channels, time_channels)
    guidance = config.get("time_cond_proj_dim")
    if guidance is not None:  # latent consistency models
        new, old = "time_embedding.cond_proj", "time_embed.cond_proj"
        yield from linear(new, old, base, guidance, bias=False)
    if config.get("addition_embed_type") == "text_time":
        sizes = config["projection_class_embeddings_input_dim"]
        yield from linear("add_embedding.linear_1", "label_emb.0.0", time_channels, sizes)
        yield from linear("add_embedding.linear_2", "label_emb.0.2", time_channels, time_channels)

    inputs = base
    index = count(1)
    for block, level in enumerate(ladder):
        new = f"down_blocks.{block}"
        for layer, depth in enumerate(level.down):
            old = f"input_blocks.{next(index)}"
            yield from _resnet(
                f"{new}.resnets.{layer}", f"{old}.0", inputs, level.channels, time_channels
            )
            inputs = level.channels
            if depth:
                yield from _transformer(
                    f"{new}.attentions.{layer}", f"{old}.1", level, depth, linear_projection
                )
        if level is not ladder[-1]:
            old = f"input_blocks.{next(index)}"
            yield from conv(f"{new}.downsamplers.0.conv", f"{old}.0.op", inputs, inputs)

    middle = config.get("mid_block_type", ATTENTION_MID)
    if middle is not None:
        yield from _resnet("mid_block.resnets.0", "middle_block.0", inputs, inputs, time_channels)
    if middle == ATTENTION_MID:
        depth = per_level(config.get("transformer_layers_per_block", 1), len(ladder))[-1]
        depth = depth if isinstance(depth, int) else depth[0]
        yield from _transformer(
            "mid_block.attentions.0", "middle_block.1", ladder[-1], depth, linear_projection
        )
        yield from _resnet("mid_block.resnets.1", "middle_block.2", inputs, inputs, time_channels)


def skip_channels(ladder: Sequence[Level]) -> Iterator[int]:
    """The channels of what the down blocks hand to the up blocks, in the order of their making."""
    yield ladder[0].channels
    for level in ladder:
        for _ in level.down:
            yield level.channels
        if level is not ladder[-1]:
            yield level.channels


def per_level(value: Any, number: int) -> list[Any]:
    """A setting that may be given once or per level, per level."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * number


def _depths(depth: Any, layers: int, *, attention: bool) -> tuple[int, ...]:
    if not attention:
        return (0,) * layers
    return tuple(per_level(depth, layers))


def _resnet(
    name: str, original: str, inputs: int, outputs: int, time_channels: int
) -> Iterator[Parameter]:
    yield from norm(f"{name}.norm1", f"{original}.in_layers.0", inputs)
    yield from conv(f"{name}.conv1", f"{original}.in_layers.2", outputs, inputs)
    yield from linear(f"{name}.time_emb_proj", f"{original}.emb_layers.1", outputs, time_channels)
    yield from norm(f"{name}.norm2", f"{original}.out_layers.0", outputs)
    yield from conv(f"{name}.conv2", f"{original}.out_layers.3", outputs, outputs)
    if inputs != outputs:
        yield from conv(
            f"{name}.conv_shortcut", f"{original}.skip_connection", outputs, inputs, kernel=1
        )


def _transformer(
    name: str, original: str, level: Level, depth: int, linear_projection: bool
) -> Iterator[Parameter]:
    channels = level.channels

    def both(suffix: str) -> tuple[str, str]:
        return f"{name}.{suffix}", f"{original}.{suffix}"

    def projection(suffix: str) -> Iterator[Parameter]:
        if linear_projection:
            return linear(*both(suffix), channels, channels)
        return conv(*both(suffix), channels, channels, kernel=1)

    yield from norm(*both("norm"), channels)
    yield from projection("proj_in")
    for index in range(depth):
        block = f"transformer_blocks.{index}"
        for attention, context in (("attn1", channels), ("attn2", level.context)):
            yield from linear(*both(f"{block}.{attention}.to_q"), channels, channels, bias=False)
            yield from linear(*both(f"{block}.{attention}.to_k"), channels, context, bias=False)
            yield from linear(*both(f"{block}.{attention}.to_v"), channels, context, bias=False)
            yield from linear(*both(f"{block}.{attention}.to_out.0"), channels, channels)
        for number in (1, 2, 3):
            yield from norm(*both(f"{block}.norm{number}"), channels)
        yield from linear(*both(f"{block}.ff.net.0.proj"), 8 * channels, channels)
        yield from linear(*both(f"{block}.ff.net.2"), channels, 4 * channels)
    yield from projection("proj_out")


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    for key, known in _ONLY_KNOWN_AS.items():
        if config.get(key) not in known:
            raise UnsupportedCheckpoint(
                f"a {config.get('_class_name', 'UNet')} with {key} {config[key]!r}"
            )
    unknown = {*config["down_block_types"], *(config.get("up_block_types") or ())} - _BLOCKS
    middle = config.get("mid_block_type", ATTENTION_MID)
    if middle not in _MIDDLE_BLOCKS:
        unknown.add(middle)
    if unknown:
        raise UnsupportedCheckpoint(f"a UNet with blocks of type {sorted(map(str, unknown))}")
