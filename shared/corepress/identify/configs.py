"""The ``config.json`` of every component: a family's settings, the weights' sizes, the user's word.

Later sources win: what is published, what shapes tell, what the original configuration tells,
what the user states for a component.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corepress.domain.checkpoint import PredictionType
from corepress.domain.errors import MissingConfig
from corepress.identify.architectures.clip import WITH_PROJECTION, clip_sizes
from corepress.identify.architectures.controlnet import controlnet_sizes
from corepress.identify.architectures.mmdit import mmdit_sizes
from corepress.identify.architectures.part import Part
from corepress.identify.architectures.t5 import t5_sizes
from corepress.identify.architectures.unet_sizes import context_width, unet_sizes
from corepress.identify.architectures.vae import vae_sizes
from corepress.identify.families.family import Family, TextEncoder
from corepress.identify.families.published import CLIP, T5
from corepress.identify.original_config import OriginalConfig

_BASE_CHANNELS = 320
"""The channels of SD 1's first level, for which its 8 heads hold."""

_HEAD_CHANNELS = 64
_VIT_H = (1024, 24)
"""Width and layers of the OpenCLIP that SD 2 was trained with."""

_NETWORK_SIZES = {
    "controlnet": controlnet_sizes,
    "transformer": mmdit_sizes,
    "unet": unet_sizes,
}

Config = dict[str, Any]


def network_config(
    family: Family,
    part: Part,
    original: OriginalConfig,
    prediction_type: PredictionType,
    override: Mapping[str, Any],
) -> Config:
    """The configuration of a UNet, ControlNet or transformer.

    Raises:
        IncompleteCheckpoint: all tensors that tell a size are missing.
        MissingConfig: neither the weights nor a configuration tell the attention heads.
    """
    network = family.traits.network
    config = {**_network_settings(family, prediction_type), **_NETWORK_SIZES[network](part)}
    if network != "transformer":
        if "cross_attention_dim" not in config:
            config["cross_attention_dim"] = context_width(part)
        heads = _heads(family, config["block_out_channels"], original)
        if heads is not None:
            config["attention_head_dim"] = heads
    config.update(override)
    if "attention_head_dim" not in config:
        raise _missing_heads(network)
    return config


def vae_config(
    family: Family,
    part: Part,
    original: OriginalConfig,
    prediction_type: PredictionType,
    override: Mapping[str, Any],
) -> Config:
    """The configuration of a VAE."""
    config = {**family.vae, **vae_sizes(part)}
    settings = _network_settings(family, prediction_type)
    if "sample_size" in settings:
        halvings = len(config["block_out_channels"]) - 1
        config["sample_size"] = settings["sample_size"] * 2**halvings
    if original.scale_factor is not None:
        config["scaling_factor"] = original.scale_factor
    return {**config, **override}


def text_encoder_config(
    encoder: TextEncoder,
    part: Part,
    original: OriginalConfig,
    override: Mapping[str, Any],
) -> Config:
    """The configuration of a text encoder.

    Raises:
        IncompleteCheckpoint: all tensors that tell a size are missing.
        MissingConfig: neither the weights nor a configuration tell the attention heads.
    """
    if encoder.architecture in T5["architectures"]:
        return {**T5, **t5_sizes(part), **override}
    open_clip = part.original
    sizes = clip_sizes(part, open_clip=open_clip)
    width, layers = sizes["hidden_size"], sizes["num_hidden_layers"]
    if open_clip and encoder.penultimate and not original.last_layer:
        # a ViT-H of 23 layers went through transformers, and has lost its last one already
        sizes["num_hidden_layers"] = layers - (0 if (width, layers + 1) == _VIT_H else 1)
    if encoder.architecture != WITH_PROJECTION or encoder.identity_projection:
        sizes["projection_dim"] = encoder.projection_dim or width
    config = {
        "architectures": [encoder.architecture],
        **CLIP,
        "hidden_act": encoder.hidden_act,
        **sizes,
        **override,
    }
    if "num_attention_heads" not in config:
        raise _missing_heads(encoder.component)
    return config


def scheduler_config(
    family: Family,
    original: OriginalConfig,
    prediction_type: PredictionType,
    *,
    zero_terminal_snr: bool,
) -> Config:
    """The scheduler as the family's repositories have it; empty for a lone ControlNet or VAE."""
    if not family.scheduler or prediction_type is PredictionType.FLOW:
        return dict(family.scheduler)
    config = {**family.scheduler, "prediction_type": PredictionType.EPSILON.value}
    if prediction_type is PredictionType.V_PREDICTION:
        config.update(family.scheduler_for_v, prediction_type=prediction_type.value)
    for key in ("beta_start", "beta_end"):
        value = getattr(original, key)
        if value is not None:
            config[key] = value
    if zero_terminal_snr:
        config.update(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return config


def _network_settings(family: Family, prediction_type: PredictionType) -> Config:
    if prediction_type is PredictionType.V_PREDICTION:
        return {**family.network, **family.network_for_v}
    return dict(family.network)


def _heads(family: Family, channels: list[int], original: OriginalConfig) -> int | list[int] | None:
    """diffusers' ``attention_head_dim``, which for these models is the *number* of heads.

    See https://github.com/huggingface/diffusers/issues/2011#issuecomment-1547958131.
    """
    if original.heads is not None:
        return original.heads
    if original.head_channels is None and family.heads is not None:
        return family.heads if channels[0] == _BASE_CHANNELS else None
    head_channels = original.head_channels or _HEAD_CHANNELS
    if any(size % head_channels for size in channels):
        return None
    return [size // head_channels for size in channels]


def _missing_heads(component: str) -> MissingConfig:
    return MissingConfig(
        f"{component}: its sizes are unusual and don't tell the number of attention heads",
        hint=f"Pass --config {component}=FILE with the component's config.json"
        + (", or --original-config FILE." if component in ("unet", "controlnet") else "."),
    )
