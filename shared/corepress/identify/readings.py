"""What a single file's parts are: the configuration and plan of each component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from corepress.domain.checkpoint import (
    Decision,
    IdentifyOptions,
    PredictionType,
    Tensor,
    TensorPlan,
)
from corepress.domain.errors import IncompleteCheckpoint
from corepress.identify.architectures.clip import PROJECTION
from corepress.identify.architectures.parameter import Parameter
from corepress.identify.architectures.part import Part
from corepress.identify.architectures.walks import by_today_names, parameters
from corepress.identify.configs import network_config, text_encoder_config, vae_config
from corepress.identify.families.family import Family, TextEncoder
from corepress.identify.original_config import OriginalConfig
from corepress.identify.parts import Parts
from corepress.identify.plan import Planned, plan

_EMA = "model_ema.diffusion_model"


@dataclass(frozen=True, slots=True)
class Source:
    """All that components are read from, once the family is known."""

    family: Family
    parts: Parts
    tensors: Mapping[str, Tensor]
    original: OriginalConfig
    prediction_type: PredictionType
    options: IdentifyOptions


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one component; tensors under ``left_out`` are known and not wanted."""

    kind: str
    config: Mapping[str, Any]
    planned: Planned
    decisions: tuple[Decision, ...] = ()
    left_out: tuple[str, ...] = ()


def read_components(source: Source) -> dict[str, Reading]:
    """The components of the family that the file holds and that don't come from elsewhere.

    Raises:
        IncompleteCheckpoint: tensors that tell a size, or the EMA weights asked for, are missing.
        MissingConfig: neither the weights nor a configuration tell a setting.
        UnsupportedCheckpoint: weights are stored in a way that isn't read.
    """
    family = source.family
    places = {family.traits.network: family.traits.network, "vae": "vae"}
    places |= {encoder.component: encoder.prefix for encoder in family.text_encoders}
    encoders = {encoder.component: encoder for encoder in family.text_encoders}
    readings = {}
    for component, place in places.items():
        if component in source.options.supplied or place not in source.parts:
            continue
        if component in encoders:
            readings[component] = _read_text_encoder(source, encoders[component])
        elif component == "vae":
            if family.vae:  # a ControlNet that brings its base model along has no use for it
                readings[component] = _read_vae(source)
        else:
            readings[component] = _read_network(source, component)
    return readings


def has_ema(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds moving averages of its UNet."""
    return any(name.startswith(_EMA) for name in tensors)


def _read_network(source: Source, name: str) -> Reading:
    part = source.parts[name]
    decisions: tuple[Decision, ...] = ()
    if has_ema(source.tensors):
        part, decisions = _choose_ema(part, source)
    elif source.options.ema:
        raise IncompleteCheckpoint(
            "there are no EMA weights (model_ema.*) in this file", hint="Leave out --ema."
        )
    config = network_config(
        source.family,
        part,
        source.original,
        source.prediction_type,
        source.options.configs.get(name, {}),
    )
    planned = plan(parameters(name, config), part, original=part.original)
    return Reading("diffusers", config, planned, decisions)


def _choose_ema(part: Part, source: Source) -> tuple[Part, tuple[Decision, ...]]:
    if not source.options.ema:
        reason = "the moving averages (EMA) are read with --ema"
        return part, (Decision("unet", "the weights themselves", reason),)
    # LitEma names the average of a parameter by the parameter's name without its dots
    averages = {name: source.tensors.get(_EMA + name.replace(".", "")) for name in part.tensors}
    found = {name: tensor for name, tensor in averages.items() if tensor is not None}
    return Part(f"{_EMA}.", found), (Decision("unet", "the EMA weights", "asked for"),)


def _read_vae(source: Source) -> Reading:
    part, override = source.parts["vae"], source.options.configs.get("vae", {})
    if not part.original:
        stored_as = {"_class_name": "AutoencoderKL"}
        part = replace(part, tensors=by_today_names(stored_as, part.tensors))
    config = vae_config(source.family, part, source.original, source.prediction_type, override)
    planned = plan(parameters("vae", config), part, original=part.original)
    return Reading("diffusers", config, planned)


def _read_text_encoder(source: Source, encoder: TextEncoder) -> Reading:
    name, part = encoder.component, source.parts[encoder.prefix]
    if not part.original:
        stored_as = {"architectures": [encoder.architecture]}
        part = replace(part, tensors=by_today_names(stored_as, part.tensors))
    override = source.options.configs.get(name, {})
    config = text_encoder_config(encoder, part, source.original, override)
    wanted = parameters(name, config)
    if encoder.identity_projection:
        return _read_without_projection(encoder, config, wanted, part)
    planned = plan(wanted, part, original=part.original)
    unused = f"transformer.resblocks.{config.get('num_hidden_layers')}."
    if not encoder.penultimate or not any(stored.startswith(unused) for stored in part.tensors):
        return Reading("transformers", config, planned)
    decision = Decision(
        name, "without the last layer", "this family is conditioned on the last layer but one"
    )
    return Reading("transformers", config, planned, (decision,), (part.prefix + unused,))


def _read_without_projection(
    encoder: TextEncoder, config: Mapping[str, Any], wanted: Sequence[Parameter], part: Part
) -> Reading:
    """A reading whose projection, whatever the file holds, is an identity, as in diffusers."""
    stored = [parameter for parameter in wanted if parameter.name != PROJECTION]
    planned = plan(stored, part, original=part.original)
    width = config["hidden_size"]
    made = [
        TensorPlan(PROJECTION, witness.source, (width, width), identity=True)
        for witness in planned.tensors[:1]
    ]
    decision = Decision(
        encoder.component,
        f"an identity matrix for {PROJECTION}",
        "this family takes the pooled output as it is",
    )
    planned = replace(planned, tensors=(*planned.tensors, *made))
    return Reading("transformers", config, planned, (decision,))
