"""T5's encoder, SD 3's third text encoder: transformers' T5EncoderModel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from corepress.identify.architectures.parameter import Parameter
from corepress.identify.architectures.part import Part

_TOKENS = "shared.weight"
_SAME_TOKENS = "encoder.embed_tokens.weight"
_POSITIONS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_BLOCK = re.compile(r"encoder\.block\.(\d{1,3})\.")


def shared_name(name: str) -> str:
    """The name of the token embedding, which some files hold under a second one."""
    return _TOKENS if name == _SAME_TOKENS else name


def t5_parameters(config: Mapping[str, Any]) -> Iterator[Parameter]:
    """Every parameter of the encoder that a transformers configuration describes.

    Both layouts have the same names: published single files hold what transformers saved.
    """
    width, inner = config["d_model"], config["d_ff"]
    heads = config["num_heads"]
    attention = heads * config["d_kv"]
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    yield _same(_TOKENS, (config["vocab_size"], width))
    for index in range(config["num_layers"]):
        block = f"encoder.block.{index}.layer"
        for projection in "qkv":
            yield _same(f"{block}.0.SelfAttention.{projection}.weight", (attention, width))
        yield _same(f"{block}.0.SelfAttention.o.weight", (width, attention))
        if not index:
            yield _same(_POSITIONS, (config.get("relative_attention_num_buckets", 32), heads))
        yield _same(f"{block}.0.layer_norm.weight", (width,))
        for name in ("wi_0", "wi_1") if gated else ("wi",):
            yield _same(f"{block}.1.DenseReluDense.{name}.weight", (inner, width))
        yield _same(f"{block}.1.DenseReluDense.wo.weight", (width, inner))
        yield _same(f"{block}.1.layer_norm.weight", (width,))
    yield _same("encoder.final_layer_norm.weight", (width,))


def t5_sizes(part: Part) -> dict[str, Any]:
    """The sizes of an encoder, named as in transformers' configuration.

    Raises:
        IncompleteCheckpoint: all tensors that tell a size are missing.
    """
    blocks = {int(match[1]) for name in part.tensors if (match := _BLOCK.match(name))}
    heads = part.agreed("number of heads", part.axis(_POSITIONS, 1) or [64])
    width = part.agreed(
        "width", [*part.axis(_TOKENS, 1), *part.axis("encoder.final_layer_norm.weight", 0)]
    )

    def witnesses(name: str, axis: int) -> list[int]:
        names = (f"encoder.block.{index}.layer.{name}.weight" for index in blocks)
        return [size for each in names for size in part.axis(each, axis)]

    attention = part.agreed("width of attention", witnesses("0.SelfAttention.q", 0))
    gated = bool(witnesses("1.DenseReluDense.wi_1", 0))
    return {
        "d_ff": part.agreed("inner width", witnesses("1.DenseReluDense.wo", 1)),
        "d_kv": attention // heads,
        "d_model": width,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "num_heads": heads,
        "num_layers": max(blocks, default=-1) + 1,
        "relative_attention_num_buckets": part.agreed("buckets", part.axis(_POSITIONS, 0) or [32]),
        "vocab_size": part.agreed("vocabulary", part.axis(_TOKENS, 0) or [32128]),
    }


def _same(name: str, shape: tuple[int, ...]) -> Parameter:
    return Parameter(name, name, shape)
