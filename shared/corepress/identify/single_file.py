"""A checkpoint in one file, in the layout of LDM, sgm or cldm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from corepress.domain.checkpoint import (
    Component,
    Decision,
    Files,
    Identification,
    IdentifyOptions,
    Layout,
    PredictionType,
    Tensor,
    WeightFiles,
)
from corepress.domain.errors import IncompleteCheckpoint, MissingVariant
from corepress.identify.architectures.clip import published_name
from corepress.identify.architectures.part import Part
from corepress.identify.architectures.walks import parameters
from corepress.identify.configs import (
    network_config,
    scheduler_config,
    text_encoder_config,
    vae_config,
)
from corepress.identify.families.family import Family, TextEncoder, Traits
from corepress.identify.families.recognise import recognise, refuse_other_models, unrecognised
from corepress.identify.original_config import OriginalConfig, read_original_config
from corepress.identify.plan import Planned, plan, refuse_incomplete
from corepress.identify.prediction import ambiguity, decide_prediction_type
from corepress.identify.quoting import listing
from corepress.identify.tensor_file import read_weight_file
from corepress.identify.textual_inversion import refuse_textual_inversion

_NETWORK = {"unet": "model.diffusion_model.", "controlnet": "control_model."}
_UNET_BLOCK = re.compile(r"(?:input_blocks\.\d+|middle_block|output_blocks\.\d+)\.\d+\.in_layers\.")
_VAE = "first_stage_model."
_TEXT = ("cond_stage_model.", "conditioner.embedders.0.", "conditioner.embedders.1.")
_TRANSFORMERS, _OPEN_CLIP = "transformer.", "model."
_PREFIXES = (
    *_NETWORK.values(),
    _VAE,
    *(place + kind for place in _TEXT for kind in (_TRANSFORMERS, _OPEN_CLIP)),
)
_EMA = "model_ema.diffusion_model"

_IGNORED = re.compile(
    r"(alphas_cumprod|betas|log_one_minus|logvar|posterior_|sqrt_|model_ema\.|denoiser\.|"
    r"first_stage_model\.loss\.|v_pred$|ztsnr$)"
    r"|.*\.(position_ids|logit_scale|text_projection(\.weight)?|attn_mask)$"
)
"""Schedule buffers, markers, and what stands beside the text encoders that diffusers uses."""

Parts = Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class _Source:
    """All that components are read from, once the family is known."""

    family: Family
    parts: Parts
    tensors: Mapping[str, Tensor]
    original: OriginalConfig
    prediction_type: PredictionType
    options: IdentifyOptions


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was read of one component; tensors under ``left_out`` are known and not wanted."""

    kind: str
    config: Mapping[str, Any]
    planned: Planned
    decisions: tuple[Decision, ...] = ()
    left_out: tuple[str, ...] = ()


def identify_single_file(files: Files, path: str, options: IdentifyOptions) -> Identification:
    """Identify the checkpoint in the file ``path``; errors as `identify` raises them."""
    tensors = read_weight_file(files, path, allow_pickle=options.allow_pickle)
    refuse_textual_inversion(path, tensors)
    if options.variant not in ("auto", "none") and f".{options.variant}." not in path:
        raise MissingVariant(
            f"{path} is a single file, of which there are no variants",
            path=path,
            hint="Leave out --variant.",
        )
    refuse_other_models(path, tensors)
    parts = _split(tensors)
    family = recognise(_traits(path, parts, tensors), options.family)
    original = read_original_config(options.original_config)
    marked = PredictionType.V_PREDICTION if {"v_pred", "ztsnr"} & tensors.keys() else None
    prediction_type = decide_prediction_type(family, options, marked, original.prediction_type)

    _require_parts(family, parts, options)
    readings = _read_components(_Source(family, parts, tensors, original, prediction_type, options))
    refuse_incomplete(family.name, {name: r.planned for name, r in readings.items()})
    weights = WeightFiles((path,), sharded=False, variant=None)
    return Identification(
        layout=Layout.SINGLE_FILE,
        family=family.name,
        prediction_type=prediction_type,
        ema=_has_ema(tensors),
        components={
            name: Component(name, r.kind, r.config, r.planned.tensors, weights)
            for name, r in readings.items()
        },
        pipeline=family.pipeline,
        scheduler=scheduler_config(
            family, original, prediction_type, zero_terminal_snr="ztsnr" in tensors
        ),
        problems=ambiguity(prediction_type),
        decisions=(
            *(decision for reading in readings.values() for decision in reading.decisions),
            *_leftovers(_wanted(tensors, options), readings.values()),
        ),
    )


def _split(tensors: Mapping[str, Tensor]) -> dict[str, Part]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                if prefix.endswith(_TRANSFORMERS):
                    rest = published_name(rest)
                parts.setdefault(prefix, {})[rest] = tensor
                break
    if "input_hint_block.0.weight" in tensors:  # a ControlNet saved without its usual prefix
        parts[_NETWORK["controlnet"]] = dict(tensors)
    return {prefix: Part(prefix, content) for prefix, content in parts.items()}


def _traits(path: str, parts: Parts, tensors: Mapping[str, Tensor]) -> Traits:
    network = "controlnet" if _NETWORK["controlnet"] in parts else "unet"
    part = parts.get(_NETWORK[network])
    if part is None or not any(map(_UNET_BLOCK.match, part.tensors)):
        raise unrecognised(path, tensors)
    size_conditioning = any(name.startswith("label_emb.") for name in part.tensors)
    axes = [len(t.shape) for name, t in part.tensors.items() if name.endswith("proj_in.weight")]
    return Traits(
        network=network,
        in_channels=(part.axis("input_blocks.0.0.weight", 1) or [4])[0],
        size_conditioning=size_conditioning,
        linear_projection=size_conditioning or axes.count(2) > len(axes) / 2,
        lone_second_text_encoder=size_conditioning and _TEXT[1] + _OPEN_CLIP in parts,
    )


def _require_parts(family: Family, parts: Parts, options: IdentifyOptions) -> None:
    wanted = {}
    if family.vae and "vae" not in options.supplied and _VAE not in parts:
        wanted["vae"] = _VAE
    for encoder in family.text_encoders:
        layouts = {encoder.prefix + kind for kind in (_OPEN_CLIP, _TRANSFORMERS)}
        if encoder.component not in options.supplied and not layouts & parts.keys():
            wanted[encoder.component] = encoder.prefix
    if wanted:
        absent = ", ".join(f"{name} ({prefix}*)" for name, prefix in wanted.items())
        raise IncompleteCheckpoint(
            f"looks like {family.name}, but has no {absent}",
            hint="A file of parts can't be converted; a missing VAE can be given with --vae.",
        )


def _read_components(source: _Source) -> dict[str, _Reading]:
    family, options = source.family, source.options
    readings = {family.traits.network: _read_network(source)}
    if family.vae and "vae" not in options.supplied:
        readings["vae"] = _read_vae(source)
    for encoder in family.text_encoders:
        if encoder.component not in options.supplied:
            readings[encoder.component] = _read_text_encoder(source, encoder)
    return readings


def _read_network(source: _Source) -> _Reading:
    name = source.family.traits.network
    part = source.parts[_NETWORK[name]]
    decisions: tuple[Decision, ...] = ()
    if _has_ema(source.tensors):
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
    planned = plan(parameters(name, config), part, original=True)
    return _Reading("diffusers", config, planned, decisions)


def _choose_ema(part: Part, source: _Source) -> tuple[Part, tuple[Decision, ...]]:
    if not source.options.ema:
        reason = "the moving averages (EMA) are read with --ema"
        return part, (Decision("unet", "the weights themselves", reason),)
    # LitEma names the average of a parameter by the parameter's name without its dots
    averages = {name: source.tensors.get(_EMA + name.replace(".", "")) for name in part.tensors}
    found = {name: tensor for name, tensor in averages.items() if tensor is not None}
    return Part(f"{_EMA}.", found), (Decision("unet", "the EMA weights", "asked for"),)


def _read_vae(source: _Source) -> _Reading:
    part, override = source.parts[_VAE], source.options.configs.get("vae", {})
    config = vae_config(source.family, part, source.original, source.prediction_type, override)
    return _Reading("diffusers", config, plan(parameters("vae", config), part, original=True))


def _read_text_encoder(source: _Source, encoder: TextEncoder) -> _Reading:
    name, open_clip = encoder.component, encoder.prefix + _OPEN_CLIP in source.parts
    part = source.parts[encoder.prefix + (_OPEN_CLIP if open_clip else _TRANSFORMERS)]
    override = source.options.configs.get(name, {})
    config = text_encoder_config(encoder, part, source.original, override, open_clip=open_clip)
    planned = plan(parameters(name, config), part, original=open_clip)
    unused = f"transformer.resblocks.{config['num_hidden_layers']}."
    if not encoder.penultimate or not any(stored.startswith(unused) for stored in part.tensors):
        return _Reading("transformers", config, planned)
    decision = Decision(
        name, "without the last layer", "this family is conditioned on the last layer but one"
    )
    return _Reading("transformers", config, planned, (decision,), (part.prefix + unused,))


def _has_ema(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(_EMA) for name in tensors)


def _wanted(tensors: Mapping[str, Tensor], options: IdentifyOptions) -> Mapping[str, Tensor]:
    """All tensors but those of a VAE whose place another one takes."""
    if "vae" not in options.supplied:
        return tensors
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_VAE)}


def _leftovers(tensors: Mapping[str, Tensor], readings: Iterable[_Reading]) -> tuple[Decision, ...]:
    """A note of the tensors that no component takes and that aren't known to be useless."""
    used: set[str] = set()
    left_out: tuple[str, ...] = ()
    for reading in readings:
        used.update(planned.source.name for planned in reading.planned.tensors)
        left_out += reading.left_out
    unknown = [
        name
        for name in tensors
        if name not in used and not _IGNORED.match(name) and not name.startswith(left_out)
    ]
    if not unknown:
        return ()
    return (
        Decision(
            "tensors",
            f"{len(unknown)} left out",
            f"they belong to no component of this family: {listing(unknown)}",
        ),
    )
