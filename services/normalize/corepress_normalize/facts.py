"""What later stages need to know about a normalized checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

from corepress.domain.artifact import tensors_digest
from corepress.domain.checkpoint import Component, Identification
from corepress_normalize.engine import Weights

_PRECISION = {"F16": "float16", "F32": "float32"}
_USUAL_VAE_SCALE_FACTOR = 8  # of every published VAE that these networks were trained with
_DEFAULT_SAMPLE_SIZE = 64
_DEFAULT_IMAGE_SIZE = 512


def component_facts(component: Component, weights: Weights, family: str) -> dict[str, Any]:
    """What a component's weights are: digest, size, type.

    ``overflows_float16`` says that its activations (not its weights) do not fit float16: the case
    of SDXL's own VAE, which its configuration marks with ``force_upcast``; fixed ones clear the
    mark (https://huggingface.co/madebyollin/sdxl-vae-fp16-fix).
    """
    elements: Counter[str] = Counter()
    for tensor in weights.tensors:
        elements[tensor.dtype] += prod(tensor.shape)
    dtype = elements.most_common(1)[0][0]
    return {
        "digest": tensors_digest(weights.tensors),
        "dtype": dtype,
        "precision": _PRECISION.get(dtype, dtype),
        "parameters": component.parameters,
        "variant": component.weights.variant,
        "overflows_float16": family.startswith("sdxl")
        and bool(component.config.get("force_upcast")),
    }


def checkpoint_facts(identification: Identification) -> dict[str, Any]:
    """What a checkpoint is: family, prediction type, and the sizes that follow from its parts.

    ``native_size`` is (width, height) in pixels; latents are ``vae_scale_factor`` times smaller
    and multiples of ``unet_divisor``; ``scaling_factor`` scales them. None where no part tells.
    """
    components = identification.components
    factor = scaling = side = None
    network = components.get("unet") or components.get("controlnet")
    if "vae" in components:
        vae = components["vae"].config
        factor = _halvings(vae)
        scaling = vae.get("scaling_factor")
        side = vae.get("sample_size", _DEFAULT_IMAGE_SIZE)
    elif network is not None:
        factor = _USUAL_VAE_SCALE_FACTOR
    if factor is not None and network is not None:
        side = network.config.get("sample_size", _DEFAULT_SAMPLE_SIZE) * factor
    return {
        "family": identification.family,
        "pipeline": identification.pipeline,
        "prediction_type": str(identification.prediction_type),
        "vae_scale_factor": factor,
        "scaling_factor": scaling,
        "unet_divisor": _halvings(network.config) if network else None,
        "native_size": [side, side] if side else None,
    }


def _halvings(config: Mapping[str, Any]) -> int:
    return int(2 ** (len(config["block_out_channels"]) - 1))
