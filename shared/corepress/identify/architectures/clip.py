"""CLIP's text encoder: transformers' CLIPTextModel (with and without projection), OpenCLIP's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from corepress.identify.architectures.parameter import Parameter, linear, norm
from corepress.identify.architectures.part import Part

_HEAD_CHANNELS = 64
"""The channels of a head in every published CLIP."""

WITH_PROJECTION = "CLIPTextModelWithProjection"
PROJECTION = "text_projection.weight"
_TEXT_MODEL = "text_model."


def published_name(name: str) -> str:
    """A transformers name with the ``text_model.`` level, which old and new files leave out."""
    if name.startswith((_TEXT_MODEL, "text_projection.")):
        return name
    return _TEXT_MODEL + name


def clip_parameters(config: Mapping[str, Any]) -> Iterator[Parameter]:
    """Every parameter of the encoder that a transformers configuration describes.

    ``original`` is OpenCLIP's name: its attention holds query, key and value in one tensor, its
    projection is applied from the right.
    """
    width = config["hidden_size"]
    embeddings = "text_model.embeddings"
    yield Parameter(
        f"{embeddings}.token_embedding.weight",
        "token_embedding.weight",
        (config["vocab_size"], width),
    )
    yield Parameter(
        f"{embeddings}.position_embedding.weight",
        "positional_embedding",
        (config["max_position_embeddings"], width),
    )
    for index in range(config["num_hidden_layers"]):
        new, old = f"text_model.encoder.layers.{index}", f"transformer.resblocks.{index}"
        yield from norm(f"{new}.layer_norm1", f"{old}.ln_1", width)
        for third, projection in enumerate(("q_proj", "k_proj", "v_proj")):
            for kind, shape in (("weight", (width, width)), ("bias", (width,))):
                yield Parameter(
                    f"{new}.self_attn.{projection}.{kind}",
                    f"{old}.attn.in_proj_{kind}",
                    shape,
                    third=third,
                )
        yield from linear(f"{new}.self_attn.out_proj", f"{old}.attn.out_proj", width, width)
        yield from norm(f"{new}.layer_norm2", f"{old}.ln_2", width)
        inner = config["intermediate_size"]
        yield from linear(f"{new}.mlp.fc1", f"{old}.mlp.c_fc", inner, width)
        yield from linear(f"{new}.mlp.fc2", f"{old}.mlp.c_proj", width, inner)
    yield from norm("text_model.final_layer_norm", "ln_final", width)
    if WITH_PROJECTION in (config.get("architectures") or ()):
        yield Parameter(
            PROJECTION,
            "text_projection",
            (config["projection_dim"], width),
            transpose=True,
        )


def clip_sizes(part: Part, *, open_clip: bool) -> dict[str, Any]:
    """The sizes of a text encoder, named as in transformers' configuration.

    ``projection_dim`` is given only where the weights hold a projection, ``num_attention_heads``
    only where the width allows the usual 64 channels per head.
    """
    if open_clip:
        tokens, positions, final = "token_embedding.weight", "positional_embedding", "ln_final"
        layers, inner = "transformer.resblocks", "mlp.c_fc"
        projection = part.axis("text_projection", 1)
    else:
        tokens = "text_model.embeddings.token_embedding.weight"
        positions = "text_model.embeddings.position_embedding.weight"
        final, layers, inner = "text_model.final_layer_norm", "text_model.encoder.layers", "mlp.fc1"
        projection = part.axis(PROJECTION, 0)
    layer = re.compile(re.escape(layers) + r"\.(\d{1,3})\.")
    indices = {int(match[1]) for name in part.tensors if (match := layer.match(name))}
    width = part.agreed(
        "width",
        [
            *part.axis(f"{final}.weight", 0),
            *part.axis(f"{final}.bias", 0),
            *part.axis(tokens, 1),
            *part.axis(positions, 1),
        ],
    )
    inner_sizes = [
        size for index in indices for size in part.axis(f"{layers}.{index}.{inner}.bias", 0)
    ]
    sizes = {
        "hidden_size": width,
        "intermediate_size": part.agreed("inner width", inner_sizes or [4 * width]),
        "max_position_embeddings": part.agreed("positions", part.axis(positions, 0) or [77]),
        "num_hidden_layers": max(indices, default=-1) + 1,
        "vocab_size": part.agreed("vocabulary", part.axis(tokens, 0) or [49408]),
    }
    if width % _HEAD_CHANNELS == 0:
        sizes["num_attention_heads"] = width // _HEAD_CHANNELS
    if projection:
        sizes["projection_dim"] = projection[0]
    return sizes
