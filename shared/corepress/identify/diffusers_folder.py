"""A checkpoint in diffusers' layout: a pipeline's folder, or a single component's."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
)
from corepress.domain.errors import (
    IncompleteCheckpoint,
    MissingConfig,
    UnsafePath,
    UnsupportedCheckpoint,
)
from corepress.identify.architectures.part import Part
from corepress.identify.architectures.walks import (
    by_today_names,
    class_name,
    is_known,
    parameters,
)
from corepress.identify.configs import scheduler_config
from corepress.identify.families.family import Family, Traits
from corepress.identify.families.recognise import (
    FAMILIES,
    family_names,
    recognise,
    refuse_alike,
)
from corepress.identify.json_file import read_json_object
from corepress.identify.original_config import read_original_config
from corepress.identify.plan import Planned, copy_all, plan, refuse_incomplete
from corepress.identify.prediction import ambiguity, decide_prediction_type
from corepress.identify.quoting import listing, quote
from corepress.identify.unfinished import refuse_unfinished, unfinished_downloads
from corepress.identify.weight_files import Found, choose_variants, find_weights, read_variant

_INDEX = "model_index.json"
_SCHEDULER = "scheduler/scheduler_config.json"
_COMPONENT_NAME = re.compile(r"[A-Za-z0-9_]+")
_COPIED_ENDINGS = (".json", ".txt", ".model")
_NETWORKS = {
    "UNet2DConditionModel": "unet",
    "ControlNetModel": "controlnet",
    "SD3Transformer2DModel": "transformer",
}
_LONE_COMPONENTS = {
    **_NETWORKS,
    "AutoencoderKL": "vae",
    "CLIPTextModel": "text_encoder",
    "CLIPTextModelWithProjection": "text_encoder_2",
    "T5EncoderModel": "text_encoder_3",
}
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_LONE_FAMILIES = {"vae": "vae", **dict.fromkeys(_TEXT_ENCODERS, "text-encoder")}
_REFINER_CONTEXT = 1280
_MUST_BE_KNOWN = (*_NETWORKS.values(), "vae", *_TEXT_ENCODERS)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A component with weights: where it lies, how it is configured, what files it offers."""

    kind: str
    config: Mapping[str, Any]
    found: Found


def is_diffusers(files: Files) -> bool:
    """Whether files are laid out as diffusers does, as a pipeline or as components."""
    return _INDEX in files or bool(_root_component(files) or _component_folders(files))


def identify_diffusers_folder(files: Files, options: IdentifyOptions) -> Identification:
    """Identify a folder for which `is_diffusers` holds; errors as `identify` raises them."""
    pipeline, folders = _folders(files)
    folders = {name: at for name, at in folders.items() if name not in options.supplied}
    entries = _entries(files, folders, pipeline, options)
    chosen, decisions = choose_variants({n: e.found for n, e in entries.items()}, options)
    read = {
        name: read_variant(files, entry.found, chosen[name], allow_pickle=options.allow_pickle)
        for name, entry in entries.items()
    }
    refuse_unfinished(files, [path for weights, _ in read.values() for path in weights.files])
    family = _family(entries, pipeline, options)
    family_name = family.name if family else _family_of_parts(entries)

    components: dict[str, Component] = {}
    planned: dict[str, Planned] = {}
    for name, entry in entries.items():
        weights, tensors = read[name]
        planned[name], leftovers = _plan(name, entry, tensors)
        decisions += leftovers
        components[name] = Component(name, entry.kind, entry.config, planned[name].tensors, weights)
    refuse_incomplete(family_name, planned)

    original = read_original_config(options.original_config)
    stored_scheduler = read_json_object(files, _SCHEDULER) if _SCHEDULER in files else None
    prediction_type = PredictionType.EPSILON
    scheduler: Mapping[str, Any] = {}
    if family is not None:
        prediction_type = decide_prediction_type(
            family, options, _stored_prediction(stored_scheduler), original.prediction_type
        )
        if stored_scheduler is None:
            scheduler = scheduler_config(family, original, prediction_type, zero_terminal_snr=False)
        elif prediction_type not in (PredictionType.FLOW, _stored_prediction(stored_scheduler)):
            scheduler = {**stored_scheduler, "prediction_type": prediction_type.value}
    return Identification(
        layout=Layout.DIFFUSERS,
        family=family_name,
        prediction_type=prediction_type,
        ema=False,
        components=components,
        pipeline=pipeline,
        scheduler=scheduler,
        files=_copied_files(files, folders.keys() - entries.keys(), replaced=bool(scheduler)),
        problems=ambiguity(prediction_type),
        decisions=tuple(decisions),
    )


def _root_component(files: Files) -> str | None:
    """The name of the component that a repository without folders holds, if it does."""
    if "config.json" not in files:
        return None
    return _LONE_COMPONENTS.get(class_name(read_json_object(files, "config.json")))


def _component_folders(files: Files) -> list[str]:
    """Folders that hold a configuration and weights or an index of such."""
    folders = sorted(
        path.removesuffix("/config.json")
        for path in files
        if path.count("/") == 1 and path.endswith("/config.json")
    )
    return [
        name
        for name in folders
        if any(find_weights(files, f"{name}/", kind) for kind in ("diffusers", "transformers"))
    ]


def _folders(files: Files) -> tuple[str | None, dict[str, str]]:
    """The pipeline's class, and every component's folder (``""`` or ending in ``/``)."""
    if _INDEX not in files:
        lone = _root_component(files)
        if lone is not None:
            return None, {lone: ""}
        return None, {name: f"{name}/" for name in _component_folders(files)}
    index = read_json_object(files, _INDEX)
    folders = {}
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or None in entry[:2]:
            continue
        if not _COMPONENT_NAME.fullmatch(name):
            raise UnsafePath(
                f"{_INDEX} names a component {quote(name)}, which is no plain name", path=_INDEX
            )
        folders[name] = f"{name}/"
    return str(index.get("_class_name", "DiffusionPipeline")), folders


def _entries(
    files: Files, folders: Mapping[str, str], pipeline: str | None, options: IdentifyOptions
) -> dict[str, _Entry]:
    """The components that have weights, with their configurations.

    Raises:
        IncompleteCheckpoint: a component that must have weights or a configuration lacks them.
        UnsupportedCheckpoint: a component that must be understood has an unknown class.
    """
    entries = {}
    absent, partial = [], []
    for name, folder in folders.items():
        path = f"{folder}config.json"
        config: dict[str, Any] = read_json_object(files, path) if path in files else {}
        config.update(options.configs.get(name, {}))
        kind = "diffusers" if "_class_name" in config else "transformers"
        found = find_weights(files, folder, kind)
        if name in _MUST_BE_KNOWN and not (config and found):
            absent.append(path if not config else f"{folder}*.safetensors")
            partial += unfinished_downloads(files, folder)
        elif name in _MUST_BE_KNOWN and not is_known(config):
            raise UnsupportedCheckpoint(
                f"{f'a {pipeline}' if pipeline else 'the folder'} whose {name} is a "
                f"{quote(class_name(config))} is not supported",
                path=path,
                hint=f"Supported families: {family_names(FAMILIES)}.",
            )
        elif found:
            entries[name] = _Entry(kind, config, found)
    if absent:
        raise IncompleteCheckpoint(
            f"the folder's components want files that are not there: {listing(absent)}"
            + (f"; not finished are: {listing(partial)}" if partial else ""),
            path=absent[0],
            hint="Download the missing files.",
        )
    return entries


def _family(
    entries: Mapping[str, _Entry], pipeline: str | None, options: IdentifyOptions
) -> Family | None:
    """The family of a folder's network, or None for a lone VAE or text encoder.

    Raises:
        UnsupportedCheckpoint: a pipeline without a network of ours, or of an unknown family.
    """
    name = next((name for name in _NETWORKS.values() if name in entries), None)
    if name is None and not (entries and all(is_known(e.config) for e in entries.values())):
        raise UnsupportedCheckpoint(
            f"a {pipeline or 'folder'} without a network that Corepress knows; "
            f"components with weights: {listing(list(entries)) or 'none'}",
            hint=f"Supported families: {family_names(FAMILIES)}.",
        )
    if name is None:
        return None
    config = entries[name].config
    if "text_encoder" in entries or "text_encoder_2" in entries:
        lone_second = "text_encoder" not in entries
    else:  # a UNet by itself
        lone_second = config.get("cross_attention_dim") == _REFINER_CONTEXT
    in_channels = config.get("in_channels", 16 if name == "transformer" else 4)
    if not isinstance(in_channels, int):
        raise MissingConfig(f"{name}/config.json: in_channels is {in_channels!r}, not a number")
    size_conditioning = config.get("addition_embed_type") == "text_time"
    traits = Traits(
        network=name,
        in_channels=in_channels,
        size_conditioning=size_conditioning,
        linear_projection=size_conditioning or bool(config.get("use_linear_projection")),
        lone_second_text_encoder=size_conditioning and lone_second and name == "unet",
    )
    family = recognise(traits, options.family)
    encoders = [encoder.component for encoder in family.text_encoders if encoder.required]
    if pipeline is not None and encoders and not {*encoders} & {*entries, *options.supplied}:
        raise UnsupportedCheckpoint(
            f"a {pipeline} without a text encoder is not supported; "
            f"its {name} comes nearest to {family.name}",
            hint=f"Supported families: {family_names(FAMILIES)}.",
        )
    return family


def _family_of_parts(entries: Mapping[str, _Entry]) -> str:
    """What stands for a family where there is no network."""
    families = {_LONE_FAMILIES[name] for name in entries if name in _LONE_FAMILIES}
    return families.pop() if len(families) == 1 else "components"


def _plan(
    name: str, entry: _Entry, tensors: Mapping[str, Tensor]
) -> tuple[Planned, list[Decision]]:
    """A component's plan, and a note of tensors that its architecture has no place for."""
    wanted = {
        name: tensor
        for name, tensor in by_today_names(entry.config, tensors).items()
        if not name.endswith("position_ids")
    }
    part = Part(entry.found.folder, wanted)
    if not is_known(entry.config):
        return copy_all(part), []
    refuse_alike(entry.found.folder or "the folder", wanted)
    planned = plan(parameters(name, entry.config), part, original=False)
    used = {tensor.source.name for tensor in planned.tensors}
    unknown = [tensor.name for tensor in wanted.values() if tensor.name not in used]
    if not unknown:
        return planned, []
    return planned, [
        Decision(
            name,
            f"{len(unknown)} tensors left out",
            f"a {class_name(entry.config)} has no place for them: {listing(unknown)}",
        )
    ]


def _stored_prediction(scheduler: Mapping[str, Any] | None) -> PredictionType | None:
    """What a scheduler's configuration says; diffusers' default is epsilon.

    Raises:
        UnsupportedCheckpoint: it says something that no family does.
    """
    if scheduler is None:
        return None
    kind = str(scheduler.get("_class_name", ""))
    if kind.startswith("EDM"):
        raise UnsupportedCheckpoint(
            f"a model of the EDM kind, as its {quote(kind)} tells, is not supported",
            path=_SCHEDULER,
        )
    stored = str(scheduler.get("prediction_type", PredictionType.EPSILON.value))
    known = {kind.value: kind for kind in (PredictionType.EPSILON, PredictionType.V_PREDICTION)}
    if stored not in known:
        raise UnsupportedCheckpoint(
            f"{_SCHEDULER} has the prediction type {quote(stored)}", path=_SCHEDULER
        )
    return known[stored]


def _copied_files(files: Files, folders: set[str], *, replaced: bool) -> dict[str, str]:
    """Tokenizers, schedulers and the like: small files of components without weights."""
    return {
        path: path
        for path in sorted(files)
        if path.count("/") == 1
        and path.partition("/")[0] in folders
        and path.endswith(_COPIED_ENDINGS)
        and not (replaced and path == _SCHEDULER)
    }
