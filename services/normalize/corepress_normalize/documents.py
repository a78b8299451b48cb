"""The small JSON files of a normalized folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from importlib.metadata import version
from typing import Any

from corepress.domain.artifact import Artifact, Blob
from corepress.domain.checkpoint import Component
from corepress.domain.composition import VAE, lora_role

MODEL_INDEX = "model_index.json"
MANIFEST = "corepress.json"
MANIFEST_SCHEMA = "corepress.normalized/1"
_FACTS = (
    *("family", "prediction_type", "clip_skip", "composition"),
    *("components", "decisions"),
)
_TOOLCHAIN = ("corepress", "numpy", "ml-dtypes")

# As published: runwayml/stable-diffusion-v1-5, stabilityai/stable-diffusion-xl-base-1.0 and
# -refiner-1.0, diffusers/sdxl-instructpix2pix-768, stabilityai/stable-diffusion-3-medium-diffusers.
_SD_SLOTS = ("feature_extractor", "safety_checker", "text_encoder", "tokenizer", "unet", "vae")
_SDXL_EDIT_SLOTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
_SDXL_SLOTS = (*_SDXL_EDIT_SLOTS, "feature_extractor", "image_encoder")
_SD3_SLOTS = (
    *("text_encoder", "text_encoder_2", "text_encoder_3"),
    *("tokenizer", "tokenizer_2", "tokenizer_3", "transformer", "vae"),
)
_SD = (_SD_SLOTS, {"requires_safety_checker": False})
_FORCE_ZEROS = {"force_zeros_for_empty_prompt": True}
_PIPELINES: Mapping[str, tuple[tuple[str, ...], Mapping[str, bool]]] = {
    "StableDiffusion3Pipeline": (_SD3_SLOTS, {}),
    "StableDiffusionXLPipeline": (_SDXL_SLOTS, _FORCE_ZEROS),
    "StableDiffusionXLInpaintPipeline": (_SDXL_SLOTS, _FORCE_ZEROS),
    "StableDiffusionXLInstructPix2PixPipeline": (_SDXL_EDIT_SLOTS, _FORCE_ZEROS),
    "StableDiffusionXLImg2ImgPipeline": (
        _SDXL_SLOTS,
        {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
    ),
}
"""Components and settings of a pipeline; those of SD 1 and 2 are alike."""

_TOKENIZER = ["transformers", "CLIPTokenizer"]
_ABSENT = [None, None]
_RENAMED_CLASSES = {"CLIPFeatureExtractor": "CLIPImageProcessor"}  # gone in transformers 5


def json_file(document: Mapping[str, Any]) -> bytes:
    """A JSON file for people and programs: sorted, indented, the same for equal content."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def default_model_index(pipeline: str, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """The ``model_index.json`` of a pipeline as published, all components absent."""
    slots, settings = _PIPELINES.get(pipeline, _SD)
    return {
        "_class_name": pipeline,
        "_diffusers_version": scheduler["_diffusers_version"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
        **dict.fromkeys(slots, _ABSENT),
        **settings,
    }


def model_index(
    base: Mapping[str, Any], components: Mapping[str, Component], folders: Set[str]
) -> dict[str, Any]:
    """A ``model_index.json`` that names what is there, and as absent what is not.

    Args:
        base: the source's own, or `default_model_index`.
        components: the components with weights.
        folders: the other folders, such as ``tokenizer``.
    """
    index = dict(base)
    for name, entry in base.items():
        if isinstance(entry, list) and name not in folders | components.keys():
            index[name] = _ABSENT
        elif isinstance(entry, list) and entry[-1] in _RENAMED_CLASSES:
            index[name] = [*entry[:-1], _RENAMED_CLASSES[entry[-1]]]
    for name, component in components.items():
        if index.get(name, _ABSENT) == _ABSENT:
            index[name] = _library_and_class(component)
    for name in folders:
        if name.startswith("tokenizer") and index.get(name, _ABSENT) == _ABSENT:
            index[name] = _TOKENIZER
    return index


def _library_and_class(component: Component) -> list[str]:
    if component.kind == "diffusers":
        return ["diffusers", component.config["_class_name"]]
    return ["transformers", component.config["architectures"][0]]


def source_document(uri: str, files: Artifact) -> dict[str, Any]:
    """Where a checkpoint came from; its ``sha256`` is the single file's, or made of all files'."""
    return {
        "uri": uri,
        "sha256": _sha256(files),
        "files": {
            path: {"sha256": blob.digest.removeprefix("sha256:"), "bytes": blob.size_bytes}
            for path, blob in files.files.items()
        },
    }


def _sha256(files: Artifact) -> str:
    """A single file's, or one that stands for all files and their names."""
    blobs = list(files.files.values())
    digest = blobs[0].digest if len(blobs) == 1 else files.identity
    return digest.removeprefix("sha256:")


def composition_document(
    further: Mapping[str, Artifact], lora_scales: Sequence[float]
) -> dict[str, Any]:
    """What a checkpoint was composed with, by content: empty where with nothing.

    Args:
        further: the files of further sources, by role.
        lora_scales: of the LoRAs, in their order.
    """
    document: dict[str, Any] = {}
    if VAE in further:
        document["vae"] = {"sha256": _sha256(further[VAE])}
    if lora_scales:
        document["loras"] = [
            {"sha256": _sha256(further[lora_role(index)]), "scale": scale}
            for index, scale in enumerate(lora_scales)
        ]
    return document


def manifest(
    facts: Mapping[str, Any],
    source: Mapping[str, Any],
    files: Mapping[str, Blob],
) -> dict[str, Any]:
    """The content of ``corepress.json``.

    Args:
        facts: of the normalize stage.
        source: see `source_document`.
        files: of the normalized folder, by path.
    """
    return {
        "schema": MANIFEST_SCHEMA,
        "source": dict(source),
        **{name: facts[name] for name in _FACTS},
        "files": {path: _file(blob) for path, blob in files.items()},
        "toolchain": {name: version(name) for name in _TOOLCHAIN},
    }


def _file(blob: Blob) -> dict[str, Any]:
    kind, _, value = blob.digest.partition(":")
    return {"bytes": blob.size_bytes} | ({kind: value} if kind == "sha256" else {})
