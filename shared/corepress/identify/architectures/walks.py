"""Architectures by the class name that a configuration carries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from corepress.domain.checkpoint import Tensor
from corepress.domain.errors import MissingConfig
from corepress.identify.architectures.clip import clip_parameters, published_name
from corepress.identify.architectures.controlnet import controlnet_parameters
from corepress.identify.architectures.mmdit import mmdit_parameters
from corepress.identify.architectures.parameter import Parameter
from corepress.identify.architectures.t5 import shared_name, t5_parameters
from corepress.identify.architectures.unet import unet_parameters
from corepress.identify.architectures.vae import modern_name, vae_parameters

_WALKS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Parameter]]] = {
    "UNet2DConditionModel": unet_parameters,
    "ControlNetModel": controlnet_parameters,
    "SD3Transformer2DModel": mmdit_parameters,
    "AutoencoderKL": vae_parameters,
    "CLIPTextModel": clip_parameters,
    "CLIPTextModelWithProjection": clip_parameters,
    "T5EncoderModel": t5_parameters,
}
_RENAMES: Mapping[str, Callable[[str], str]] = {
    "AutoencoderKL": modern_name,
    "CLIPTextModel": published_name,
    "CLIPTextModelWithProjection": published_name,
    "T5EncoderModel": shared_name,
}

_COUNTS = (
    "layers_per_block",
    "num_hidden_layers",
    "num_layers",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
)
_ABSURD_COUNT = 1000


def class_name(config: Mapping[str, Any]) -> str:
    """The class that diffusers or transformers would open a configuration with, or ``""``."""
    name = config.get("_class_name")
    if name is None:
        architectures = config.get("architectures")
        name = architectures[0] if isinstance(architectures, list) and architectures else ""
    return str(name)


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether there is a walk for a configuration's class."""
    return class_name(config) in _WALKS


def parameters(component: str, config: Mapping[str, Any]) -> list[Parameter]:
    """Every parameter of the component that a configuration describes.

    Raises:
        MissingConfig: the configuration lacks a setting or contradicts itself.
        UnsupportedCheckpoint: it describes something that no walk covers.
    """
    try:
        for setting in _COUNTS:
            _refuse_absurd(config.get(setting))
        walked = list(_WALKS[class_name(config)](config))
        for parameter in walked:
            _refuse_non_sizes(parameter)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MissingConfig(
            f"the configuration of {component} is incomplete or contradicts itself "
            f"({type(error).__name__}: {error})",
            hint=f"Pass a complete one: --config {component}=FILE.",
        ) from error
    return walked


def by_today_names(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in diffusers' or transformers' layout, by the names that they have today.

    Of two under one name (T5's token embedding) the one that is stored under it counts.
    """
    rename = _RENAMES.get(class_name(config), str)
    return {rename(name): tensors.get(rename(name), tensor) for name, tensor in tensors.items()}


def _refuse_absurd(count: Any) -> None:
    """Refuse counts for which a walk would never end."""
    if isinstance(count, list):
        for part in count:
            _refuse_absurd(part)
    elif isinstance(count, int) and count > _ABSURD_COUNT:
        raise ValueError(f"{count} layers")


def _refuse_non_sizes(parameter: Parameter) -> None:
    if not all(isinstance(size, int) for size in parameter.shape):
        raise TypeError(f"{parameter.name} would have the shape {parameter.shape}")
