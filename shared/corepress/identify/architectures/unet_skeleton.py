"""What the tensors of a UNet or ControlNet tell of its blocks, in either layout.

The original code counts its blocks through, a downsampler being a block of its own between two
levels; diffusers has a block per level and counts its layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from corepress.identify.architectures.part import Part

_DEPTH = re.compile(r"(?:1\.)?transformer_blocks\.(\d{1,3})\.")

_ORIGINAL_BLOCK = re.compile(r"(input_blocks|output_blocks|middle_block)\.(\d{1,3})\.(.+)")
_ORIGINAL_RESAMPLER = re.compile(r"0\.op\.|[12]\.conv\.")
_ORIGINAL_RESNET_OUTPUT = re.compile(
    r"0\.(?:in_layers\.2|emb_layers\.1|out_layers\.0|out_layers\.3)\."
)

_LAYER = re.compile(r"(down|up)_blocks\.(\d{1,3})\.(resnets|attentions)\.(\d{1,3})\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d{1,3})\.(.+)")
_RESNET_OUTPUT = re.compile(r"(?:conv1|conv2|norm2|time_emb_proj)\.")


@dataclass(slots=True)
class Level:
    """One resolution: witnesses of its channels, and the transformers' depth per layer."""

    channels: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    up: list[int] = field(default_factory=list)

    @property
    def depths(self) -> set[int]:
        """The depths in use; a layer without a transformer beside others has lost its own."""
        return {*self.down, *self.up} - {0}


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The levels from full resolution downwards, and what stands between down and up.

    ``has_middle`` is whether there is anything; ``middle_depth`` the depth of its transformer, 0
    where its layers have none, None where it has but the one layer that stands before one.
    """

    levels: list[Level]
    has_middle: bool
    middle_depth: int | None
    has_up: bool


def unet_skeleton(part: Part) -> Skeleton:
    """The skeleton that the names and shapes of a part's tensors show."""
    return _original_skeleton(part) if part.original else _diffusers_skeleton(part)


@dataclass(slots=True)
class _Block:
    """What tensors tell of one block, or one layer of one: witnesses of its channels, the rest."""

    channels: list[int] = field(default_factory=list)
    depth: int = 0
    resamples: bool = False

    def see_depth(self, name: str) -> bool:
        """Whether the name is of a transformer, whose depth it tells."""
        match = _DEPTH.match(name)
        if match:
            self.depth = max(self.depth, int(match[1]) + 1)
        return match is not None


def _original_skeleton(part: Part) -> Skeleton:
    blocks: Mapping[str, dict[int, _Block]] = {
        "input_blocks": {},
        "middle_block": {},
        "output_blocks": {},
    }
    for name, tensor in part.tensors.items():
        match = _ORIGINAL_BLOCK.fullmatch(name)
        if match is None:
            continue
        block = blocks[match[1]].setdefault(int(match[2]), _Block())
        if block.see_depth(match[3]):
            continue
        if _ORIGINAL_RESAMPLER.match(match[3]):
            block.resamples = True
        elif _ORIGINAL_RESNET_OUTPUT.match(match[3]) and tensor.shape:
            block.channels.append(tensor.shape[0])
    middle = blocks["middle_block"]
    return Skeleton(
        _original_levels(blocks),
        has_middle=bool(middle),
        middle_depth=_middle_depth(middle),
        has_up=bool(blocks["output_blocks"]),
    )


def _original_levels(blocks: Mapping[str, dict[int, _Block]]) -> list[Level]:
    """Numbered blocks grouped by resolution: an upsampler sits in the block that ends its level."""
    levels = [Level()]
    for _, block in sorted(blocks["input_blocks"].items()):
        if block.resamples:
            levels.append(Level())
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


def _diffusers_skeleton(part: Part) -> Skeleton:
    layers: Mapping[str, dict[int, dict[int, _Block]]] = {"down": {}, "up": {}}
    middle: dict[int, _Block] = {}
    for name, tensor in part.tensors.items():
        if match := _LAYER.fullmatch(name):
            half, block, kind, layer, rest = match.groups()
            seen = layers[half].setdefault(int(block), {}).setdefault(int(layer), _Block())
            if not seen.see_depth(rest) and kind == "resnets" and _RESNET_OUTPUT.match(rest):
                seen.channels.extend(tensor.shape[:1])
        elif match := _MIDDLE.fullmatch(name):
            # numbered as in the original: resnet, attention, resnet
            position = 1 if match[1] == "attentions" else 2 * int(match[2])
            middle.setdefault(position, _Block()).see_depth(match[3])
    number = max([*layers["down"], *layers["up"]], default=-1) + 1
    levels = [Level() for _ in range(number)]
    for index, level in enumerate(levels):
        down = sorted(layers["down"].get(index, {}).items())
        up = sorted(layers["up"].get(number - 1 - index, {}).items())
        level.channels.extend(size for _, layer in (*down, *up) for size in layer.channels)
        level.down.extend(layer.depth for _, layer in down)
        level.up.extend(layer.depth for _, layer in up)
    return Skeleton(
        levels,
        has_middle=bool(middle),
        middle_depth=_middle_depth(middle),
        has_up=bool(layers["up"]),
    )


def _middle_depth(middle: Mapping[int, _Block]) -> int | None:
    if not middle.keys() & {1, 2}:
        return None
    return middle[1].depth if 1 in middle else 0
