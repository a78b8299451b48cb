"""What later stages need to know about a normalized checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

from corepress.domain.checkpoint import Component, Identification
from corepress.domain.errors import MissingConfig
from corepress_normalize.engine import Weights

_PRECISION = {"F16": "float16", "F32": "float32"}
_USUAL_VAE_SCALE_FACTOR = 8  # of every family's own VAE, which a network by itself comes without
_DEFAULT_SAMPLE_SIZE = 64
_DEFAULT_IMAGE_SIZE = 512
_DEFAULT_LAYERS = 2
_UNETS = ("unet", "controlnet")
_NETWORKS = (*_UNETS, "transformer")


def component_facts(component: Component, weights: Weights, family: str) -> dict[str, Any]:
    """What a component's weights are: size and type."""
    elements: Counter[str] = Counter()
    for tensor in weights.tensors:
        elements[tensor.dtype] += prod(tensor.plan.shape)
    dtype = elements.most_common(1)[0][0]
    return {
        "dtype": dtype,
        "precision": _PRECISION.get(dtype, dtype),
        "parameters": component.parameters,
        "variant": component.weights.variant,
        **conversion_facts(component, family),
    }


def conversion_facts(component: Component, family: str) -> dict[str, Any]:
    """What a component's configuration tells a conversion."""
    return {
        "overflows_float16": overflows_float16(component, family),
        "guidance_embedding": component.config.get("time_cond_proj_dim") is not None,
    }


def overflows_float16(component: Component, family: str) -> bool:
    """Whether a component's activations (not its weights) do not fit float16.

    That is the case of SDXL's own VAE, which its configuration marks with ``force_upcast``; fixed
    ones clear the mark (https://huggingface.co/madebyollin/sdxl-vae-fp16-fix).
    """
    # SD 1's carry the mark too, as diffusers' default; a VAE by itself may be SDXL's
    return family.startswith(("sdxl", "vae")) and bool(component.config.get("force_upcast"))


def checkpoint_facts(identification: Identification) -> dict[str, Any]:
    """What a checkpoint is: family, prediction type, and the sizes that follow from its parts.

    ``native_size`` is (width, height) in pixels; latents are ``vae_scale_factor`` times smaller
    and multiples of ``unet_divisor``; ``scaling_factor`` scales them. None where no part tells.
    ``network`` is what a ControlNet and the UNet that it controls have in common.
    """
    configs = {name: component.config for name, component in identification.components.items()}
    vae = configs.get("vae")
    unet = next((configs[name] for name in _UNETS if name in configs), None)
    network = next((configs[name] for name in _NETWORKS if name in configs), None)
    factor = sides = None
    if vae is not None:
        factor, sides = _halvings(vae), _sides(vae, _DEFAULT_IMAGE_SIZE)
    if network is not None:
        factor = factor or _USUAL_VAE_SCALE_FACTOR
        sides = [factor * side for side in _sides(network, _DEFAULT_SAMPLE_SIZE)]
    return {
        "family": identification.family,
        "pipeline": identification.pipeline,
        "prediction_type": str(identification.prediction_type),
        "vae_scale_factor": factor,
        "scaling_factor": vae.get("scaling_factor") if vae is not None else None,
        "unet_divisor": _halvings(unet) if unet is not None else None,
        "native_size": sides,
        "network": _shared(unet) if unet is not None else {},
    }


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    channels = list(config["block_out_channels"])
    layers = config.get("layers_per_block", _DEFAULT_LAYERS)
    return {
        "context": config.get("cross_attention_dim"),
        "channels": channels,
        "layers": [layers] * len(channels) if isinstance(layers, int) else list(layers),
    }


def _sides(config: Mapping[str, Any], default: int) -> list[int]:
    """Width and height; ``sample_size`` is one number, (height, width), or null."""
    match config.get("sample_size"):
        case None:
            return [default, default]
        case int(side) if side > 0:
            return [side, side]
        case [int(height), int(width)] if height > 0 and width > 0:
            return [width, height]
        case other:
            raise MissingConfig(
                f"sample_size is {other!r}, neither a size nor [height, width]",
                hint="correct it in config.json, or give --config COMPONENT=FILE",
            )


def _halvings(config: Mapping[str, Any]) -> int:
    return int(2 ** (len(config["block_out_channels"]) - 1))
