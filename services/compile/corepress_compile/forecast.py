"""What converting will take, told from a component's configuration alone.

The lines fit measured peaks, the parity check included, on a machine of two cores: SD1.5's UNet at
512x512 3.0 GB, SDXL's at 1024x1024 3.9 GB; VAE decoders 1.7 GB (512x512, float16) and 4.9 GB
(1024x1024, float32), encoders 1.3 and 3.5 GB; text encoders 0.8 to 1.0 GB. They are within a tenth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from corepress.domain.checkpoint import Component, TensorPlan, WeightFiles
from corepress.domain.recipe import DENOISERS, FEWEST_COMPRESSED, Compression, layer_of
from corepress.identify.safetensors_header import read_header
from corepress.runtime.files import LocalFile

_BASE_BYTES = 0.7e9
"""Of torch, coremltools and a graph: conversion holds no weights."""
_BYTES_PER_PARAMETER = 0.35
_FLOAT32_BYTES = 4
_ATTENTION_MATRICES = 2
"""The scores and their softmax are there at once, in float32."""
_DECODER_FLOATS_PER_PIXEL = 8
_ENCODER_FLOATS_PER_PIXEL = 5.25
"""For each channel of the VAE's first level."""
_VAE_PARTS = {
    "vae_decoder": ("decoder.", "post_quant_conv."),
    "vae_encoder": ("encoder.", "quant_conv."),
}
_WEIGHT_BITS = {"float16": 16, "float32": 32}
_COMPILE_MINUTES = 0.5
"""Of a Mac, for starting the compiler and loading the model."""
_COMPILE_MINUTES_PER_GB = {"denoiser": 1.5, "split_einsum": 6.0, "other": 1.0}
"""Of a model's weights. A Neural Engine compiles its networks once more when they are loaded. These
are assumptions: nothing of it was measured."""
_EMBEDDING_TABLES = "embeddings."
"""In the names of text encoders' tables, which are looked up and not multiplied with."""


def package_bytes(parameters: Mapping[str, Any], source: Component) -> int:
    """The size of a model's package, but for its graph, palettes and scales.

    Args:
        parameters: of the convert task.
        source: the component that it is converted from.
    """
    stated = parameters.get("compression")
    compression = Compression(**stated) if stated else None
    plain_bits = _WEIGHT_BITS[parameters["precision"]]
    bits = sum(
        prod(plan.shape) * (_compressed_bits(plan, compression) or plain_bits)
        for plan in _plans(parameters, source)
    )
    return bits // 8


def _compressed_bits(plan: TensorPlan, compression: Compression | None) -> int | None:
    """The bits of an element, None where it is not compressed; see `compression.layer_weights`."""
    is_layers = len(plan.shape) > 1 and _EMBEDDING_TABLES not in plan.name
    if compression is None or not is_layers or prod(plan.shape) < FEWEST_COMPRESSED:
        return None
    found = compression.of_layer(layer_of(plan.name))
    return found.bits if found else None


def peak_memory_bytes(parameters: Mapping[str, Any], source: Component) -> int:
    """The largest resident set of the process that converts and checks a model."""
    model = parameters["component"]
    activations = 0.0
    if model in DENOISERS:
        activations = _attention_bytes(parameters, source.config)
    elif model in _VAE_PARTS:
        width, height = parameters["size"]
        floats = (
            _DECODER_FLOATS_PER_PIXEL if model == "vae_decoder" else _ENCODER_FLOATS_PER_PIXEL
        ) * source.config["block_out_channels"][0]
        tokens = width * height // parameters["vae_scale_factor"] ** 2
        activations = _FLOAT32_BYTES * max(floats * width * height, _ATTENTION_MATRICES * tokens**2)
    parameter_bytes = _BYTES_PER_PARAMETER * _parameters(parameters, source)
    return int(_BASE_BYTES + parameter_bytes + activations)


def compile_minutes(parameters: Mapping[str, Any], size_bytes: int) -> float:
    """How long a Mac is assumed to take to compile a model, load it and predict once, in minutes.

    Args:
        parameters: of the convert task that made its package.
        size_bytes: of the package.
    """
    kind = "other"
    if parameters["component"] in DENOISERS:
        kind = "denoiser" if parameters["attention"] == "original" else "split_einsum"
    return _COMPILE_MINUTES + _COMPILE_MINUTES_PER_GB[kind] * size_bytes / 1e9


def compile_assumption() -> str:
    """What `compile_minutes` assumes, for people."""
    per_gb = _COMPILE_MINUTES_PER_GB
    return (
        f"assumed for each model, not measured: {_COMPILE_MINUTES:g} minutes, and for each GB of "
        f"it {per_gb['denoiser']:g} (UNets and ControlNets), {per_gb['split_einsum']:g} (those for "
        f"the Neural Engine) or {per_gb['other']:g} (all others)"
    )


def component_in(folder: Path) -> Component:
    """A normalized component, as far as forecasts look at it.

    Raises:
        CorruptCheckpoint: a weight file is not well-formed.
    """
    tensors = [
        TensorPlan(tensor.name, tensor, tensor.shape)
        for path in sorted(folder.glob("*.safetensors"))
        for tensor in read_header(LocalFile(path), path.name).values()
    ]
    config = json.loads((folder / "config.json").read_text())
    weights = WeightFiles((), sharded=False, variant=None)
    return Component(folder.name, "", config, tuple(tensors), weights)


def _parameters(parameters: Mapping[str, Any], source: Component) -> int:
    return sum(prod(plan.shape) for plan in _plans(parameters, source))


def _plans(parameters: Mapping[str, Any], source: Component) -> list[TensorPlan]:
    """The tensors of the component that the model has: a VAE gives two models."""
    prefixes = _VAE_PARTS.get(parameters["component"], ("",))
    return [plan for plan in source.tensors if plan.name.startswith(prefixes)]


def _attention_bytes(parameters: Mapping[str, Any], config: Mapping[str, Any]) -> float:
    """Of the largest attention in a network: that of the first level that has any."""
    width, height = parameters["size"]
    tokens = width * height // parameters["vae_scale_factor"] ** 2
    # diffusers calls the number of heads attention_head_dim
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    for level, block in enumerate(config["down_block_types"]):
        if "Attn" in block:
            count = heads if isinstance(heads, int) else heads[level]
            matrix = parameters["batch"] * count * (tokens // 4**level) ** 2
            return float(_ATTENTION_MATRICES * _FLOAT32_BYTES * matrix)
    return 0.0
