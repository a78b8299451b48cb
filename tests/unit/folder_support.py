"""Diffusers folders in memory: a tiny checkpoint's, whole, sharded, or with names changed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from identify_support import (
    MemoryFile,
    arrays_of,
    tiny_file,
    tiny_options,
    write_safetensors,
)

from corepress.identify import identify

Folder = dict[str, MemoryFile]
CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
}
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


def as_json(document: Any) -> MemoryFile:
    return MemoryFile(json.dumps(document).encode())


def weight_path(component: str, variant: str | None = None) -> str:
    ending = f".{variant}.safetensors" if variant else ".safetensors"
    return f"{component}/{STEMS.get(component, 'model')}{ending}"


def folder_of(name: str) -> Folder:
    """A tiny checkpoint as a diffusers folder."""
    files = {"model.safetensors": tiny_file(name)}
    found = identify(files, tiny_options(name))
    index: dict[str, Any] = {"_class_name": found.pipeline, "_diffusers_version": "0.30.2"}
    folder: Folder = {}
    for component in found.components.values():
        index[component.name] = CLASSES[component.name]
        folder[f"{component.name}/config.json"] = as_json(dict(component.config))
        data = write_safetensors(arrays_of(component, files))
        folder[weight_path(component.name)] = MemoryFile(data)
    index |= {
        "scheduler": ["diffusers", found.scheduler["_class_name"]],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }
    folder["model_index.json"] = as_json(index)
    folder["scheduler/scheduler_config.json"] = as_json(dict(found.scheduler))
    folder["tokenizer/vocab.json"] = as_json({"a": 0})
    folder["tokenizer/merges.txt"] = MemoryFile(b"#version: 0.2\n")
    return folder


TODAY = ("model.fp16-{}.safetensors", "model.safetensors.index.fp16.json")
BEFORE = ("model-{}.fp16.safetensors", "model.safetensors.index.fp16.json")
PLAIN = ("model-{}.safetensors", "model.safetensors.index.json")


def sharded(folder: Folder, naming: tuple[str, str]) -> tuple[Folder, dict[str, str]]:
    """The folder with its text encoder in two shards, and the index' map."""
    source = folder.pop(weight_path("text_encoder"))
    shapes = shapes_in(source.data)
    names = sorted(shapes)
    shard, index = naming
    weight_map = {}
    for number, part in ((1, names[::2]), (2, names[1::2])):
        file = shard.format(f"0000{number}-of-00002")
        weight_map |= dict.fromkeys(part, file)
        arrays = {name: np.zeros(shapes[name], "<f4") for name in part}
        folder[f"text_encoder/{file}"] = MemoryFile(write_safetensors(arrays))
    folder[f"text_encoder/{index}"] = as_json({"metadata": {}, "weight_map": weight_map})
    return folder, weight_map


def shapes_in(data: bytes) -> dict[str, list[int]]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: entry["shape"] for name, entry in header.items()}


def renamed(data: bytes, old: str, new: str) -> bytes:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return with_header(data, {name.replace(old, new): entry for name, entry in header.items()})


def with_header(data: bytes, header: Any) -> bytes:
    text = json.dumps(header).encode()
    rest = data[8 + int.from_bytes(data[:8], "little") :]
    return len(text).to_bytes(8, "little") + text + rest
