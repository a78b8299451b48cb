"""A checkpoint in one file: in the layout of LDM, sgm or cldm, or one component in any."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from corepress.domain.checkpoint import (
    Component,
    Decision,
    Files,
    Identification,
    IdentifyOptions,
    Layout,
    PredictionType,
    Problem,
    Tensor,
    WeightFiles,
)
from corepress.domain.errors import (
    IncompleteCheckpoint,
    MissingConfig,
    MissingVariant,
    UnsupportedCheckpoint,
)
from corepress.identify.architectures.mmdit import transformer_channels
from corepress.identify.architectures.unet_sizes import (
    context_width,
    has_linear_projection,
    has_size_conditioning,
    input_channels,
)
from corepress.identify.configs import scheduler_config
from corepress.identify.families.family import Family, Traits
from corepress.identify.families.lone import network_alone, vae_alone
from corepress.identify.families.recognise import (
    family_named,
    recognise,
    refuse_alike,
    unrecognised,
)
from corepress.identify.original_config import read_original_config
from corepress.identify.parts import NETWORKS, Parts, split
from corepress.identify.plan import refuse_incomplete
from corepress.identify.prediction import ambiguity, decide_prediction_type
from corepress.identify.quoting import listing
from corepress.identify.readings import Reading, Source, has_ema, read_components
from corepress.identify.tensor_file import read_weight_file
from corepress.identify.textual_inversion import refuse_textual_inversion
from corepress.identify.unfinished import refuse_unfinished

_IGNORED = re.compile(
    r"(alphas_cumprod|betas|log_one_minus|logvar|posterior_|sqrt_|model_ema\.|denoiser\.|"
    r"(first_stage_model\.)?loss\.|v_pred$|ztsnr$)"
    r"|.*\.(position_ids|logit_scale|text_projection(\.weight)?|attn_mask|embed_tokens\.weight)$"
)
"""Schedule buffers, markers, and what stands beside the text encoders that diffusers uses."""

_RESNET = re.compile(
    r"(?:input_blocks\.\d+|middle_block|output_blocks\.\d+)\.\d+\.in_layers\."
    r"|(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\.resnets\."
)
"""What every UNet and ControlNet has, in either naming."""

_REFINER_CONTEXT = 1280


def identify_single_file(files: Files, path: str, options: IdentifyOptions) -> Identification:
    """Identify the checkpoint in the file ``path``; errors as `identify` raises them."""
    tensors = read_weight_file(files, path, allow_pickle=options.allow_pickle)
    refuse_unfinished(files, [path])
    refuse_textual_inversion(path, tensors)
    if options.variant not in ("auto", "none") and f".{options.variant}." not in path:
        raise MissingVariant(
            f"{path} is a single file, of which there are no variants",
            path=path,
            hint="Leave out --variant.",
        )
    refuse_alike(path, tensors)
    parts = split(tensors)
    family, decisions = _family(path, parts, tensors, options)
    original = read_original_config(options.original_config)
    marked = PredictionType.V_PREDICTION if {"v_pred", "ztsnr"} & tensors.keys() else None
    prediction_type = decide_prediction_type(family, options, marked, original.prediction_type)

    _require_parts(family, parts, options)
    source = Source(family, parts, tensors, original, prediction_type, options)
    if parts.keys() == {"vae"} or any(not part.prefix for part in parts.values()):
        readings = _read_alone(path, source)
    else:
        readings = read_components(source)
    refuse_incomplete(family.name, {name: r.planned for name, r in readings.items()})
    weights = WeightFiles((path,), sharded=False, variant=None)
    return Identification(
        layout=Layout.SINGLE_FILE,
        family=family.name,
        prediction_type=prediction_type,
        ema=has_ema(tensors),
        components={
            name: Component(name, r.kind, r.config, r.planned.tensors, weights)
            for name, r in readings.items()
        },
        pipeline=family.pipeline,
        scheduler=scheduler_config(
            family, original, prediction_type, zero_terminal_snr="ztsnr" in tensors
        ),
        problems=(*ambiguity(prediction_type), *_unknown_scale(readings)),
        decisions=(
            *decisions,
            *_absent_encoders(family, readings),
            *(decision for reading in readings.values() for decision in reading.decisions),
            *_left_out(_leftovers(source, readings.values())),
        ),
    )


def _family(
    path: str, parts: Parts, tensors: Mapping[str, Tensor], options: IdentifyOptions
) -> tuple[Family, tuple[Decision, ...]]:
    """The family of a file's parts, and a note where they are but one component.

    Raises:
        UnsupportedCheckpoint: there is nothing of a family, or something that no family has.
        InvalidRequest: the options name no family.
    """
    network = next((name for name in NETWORKS if name in parts), None)
    if network is None:
        if parts.keys() != {"vae"}:
            raise unrecognised(path, tensors)
        stated = None if options.family == "auto" else family_named(options.family)
        return vae_alone(stated), (Decision("vae", "by itself", "the file holds nothing else"),)
    if network != "transformer" and not any(map(_RESNET.match, parts[network].tensors)):
        raise unrecognised(path, tensors)
    family = recognise(_traits(network, parts), options.family)
    if not family.vae or parts.keys() != {network} or options.supplied:
        return family, ()
    reason = "the file holds neither a VAE nor a text encoder"
    return network_alone(family), (Decision(network, "by itself", reason),)


def _traits(network: str, parts: Parts) -> Traits:
    part = parts[network]
    if network == "transformer":
        return Traits(
            network=network,
            in_channels=transformer_channels(part),
            size_conditioning=False,
            linear_projection=False,
            lone_second_text_encoder=False,
        )
    size_conditioning = has_size_conditioning(part)
    first_encoder = parts.get("conditioner.embedders.0.")
    if parts.keys() == {network}:
        lone_second = network == "unet" and context_width(part) == _REFINER_CONTEXT
    else:
        lone_second = first_encoder is not None and first_encoder.original
    return Traits(
        network=network,
        in_channels=input_channels(part),
        size_conditioning=size_conditioning,
        linear_projection=size_conditioning or has_linear_projection(part),
        lone_second_text_encoder=size_conditioning and lone_second,
    )


def _require_parts(family: Family, parts: Parts, options: IdentifyOptions) -> None:
    wanted = {"vae": "first_stage_model."} if family.vae and "vae" not in parts else {}
    for encoder in family.text_encoders:
        if encoder.required and encoder.prefix not in parts:
            wanted[encoder.component] = encoder.prefix
    absent = [f"{name} ({at}*)" for name, at in wanted.items() if name not in options.supplied]
    if absent:
        raise IncompleteCheckpoint(
            f"looks like {family.name}, but has no {', '.join(absent)}",
            hint="A file of parts can't be converted; a missing VAE can be given with --vae.",
        )


def _read_alone(path: str, source: Source) -> dict[str, Reading]:
    """The one component of a file in which nothing but its names tells what it is.

    Raises:
        UnsupportedCheckpoint: it is another one, whose names are alike.
    """
    nearest = f"{path} comes nearest to {source.family.name}"
    try:
        readings = read_components(source)
    except IncompleteCheckpoint as error:
        raise UnsupportedCheckpoint(f"{nearest}, but {error.message}", path=path) from error
    unknown = _leftovers(source, readings.values())
    if unknown:
        raise UnsupportedCheckpoint(
            f"{nearest}, which has no such tensors: {listing(unknown)}", path=path
        )
    return readings


def _absent_encoders(family: Family, readings: Mapping[str, Reading]) -> tuple[Decision, ...]:
    reason = "the file doesn't hold it: diffusers wants None for it and its tokenizer"
    return tuple(
        Decision(encoder.component, "left out", reason)
        for encoder in family.text_encoders
        if not encoder.required and encoder.component not in readings
    )


def _unknown_scale(readings: Mapping[str, Reading]) -> tuple[Problem, ...]:
    """The problem of a VAE by itself, of which nothing tells the family."""
    if "vae" not in readings or "scaling_factor" in readings["vae"].config:
        return ()
    return (
        Problem(
            MissingConfig.code,
            "a VAE's weights don't tell what its latents are scaled by, and this file holds "
            "nothing else",
            hint="Pass --family with the family that it is for, such as sd15 or sdxl, or "
            "--config vae=FILE.",
        ),
    )


def _leftovers(source: Source, readings: Iterable[Reading]) -> list[str]:
    """The tensors that nothing takes, aren't known to be useless, and aren't supplied otherwise."""
    supplied = [source.parts[name] for name in source.options.supplied if name in source.parts]
    used = {tensor.name for part in supplied for tensor in part.tensors.values()}
    left_out: tuple[str, ...] = ()
    for reading in readings:
        used.update(planned.source.name for planned in reading.planned.tensors)
        left_out += reading.left_out
    return [
        name
        for name in source.tensors
        if name not in used and not _IGNORED.match(name) and not name.startswith(left_out)
    ]


def _left_out(unknown: list[str]) -> tuple[Decision, ...]:
    if not unknown:
        return ()
    return (
        Decision(
            "tensors",
            f"{len(unknown)} left out",
            f"they belong to no component of this family: {listing(unknown)}",
        ),
    )
