"""Hostile checkpoints: files as they are, and pipeline folders with one hostile component."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from normalize_support import normalize_tiny
from safetensors.torch import load_file, save_file

HOSTILE = Path(__file__).parents[1] / "fixtures" / "hostile"

FILES: Mapping[str, str] = {
    **{f"safetensors/{path.name}": "corrupt-checkpoint" for path in HOSTILE.glob("safetensors/*")},
    "safetensors/control_valid_mini.safetensors": "unsupported-checkpoint",
    "safetensors/not_a_diffusion_model.safetensors": "unsupported-checkpoint",
    "safetensors/zero_tensors.safetensors": "unsupported-checkpoint",
    **{f"pickle/{path.name}": "unsafe-pickle" for path in HOSTILE.glob("pickle/*")},
    "pickle/not_a_pickle.ckpt": "corrupt-checkpoint",
    "pickle/pwned_renamed.safetensors": "corrupt-checkpoint",
}
"""The code with which each file is refused."""

_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_INDEX = "model.safetensors.index.json"


def pipeline_folder(folder: Path) -> Path:
    """A complete pipeline in float16, small enough to be copied for every case."""
    normalize_tiny("sd15", folder, precision="fp16")
    (folder / "corepress.json").unlink()
    return folder


def shard(folder: Path, names: tuple[str, str] = _SHARDS, index: str = _INDEX) -> Path:
    """Split the weight file of a component in two; returns the index file."""
    (single,) = folder.glob("*.safetensors")
    tensors = load_file(single)
    single.unlink()
    ordered = sorted(tensors)
    halves = ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
    for name, half in zip(names, halves, strict=True):
        save_file({key: tensors[key] for key in half}, folder / name, metadata={"format": "pt"})
    weight_map = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    path = folder / index
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def _remapped(place: Callable[[str, str], str | None]) -> Callable[[Path], None]:
    """A folder whose index has other shards for its tensors; None leaves a tensor out."""

    def spoil(folder: Path) -> None:
        index = shard(folder)
        weight_map = json.loads(index.read_text())["weight_map"]
        placed = {key: place(key, name) for key, name in weight_map.items()}
        kept = {key: name for key, name in placed.items() if name is not None}
        index.write_text(json.dumps({"metadata": {}, "weight_map": kept}))

    return spoil


def _outside(folder: Path) -> None:
    index = shard(folder)
    shutil.move(folder / _SHARDS[1], folder.parent / "x.safetensors")
    index.write_text(index.read_text().replace(_SHARDS[1], "../x.safetensors"))


def _missing_shard(folder: Path) -> None:
    shard(folder)
    (folder / _SHARDS[1]).unlink()


def _twice(folder: Path) -> None:
    shard(folder)
    both = {**load_file(folder / _SHARDS[0]), **load_file(folder / _SHARDS[1])}
    save_file(both, folder / _SHARDS[1], metadata={"format": "pt"})


def _no_json(folder: Path) -> None:
    shard(folder).write_text("{index")


_POSITIONS = "text_model.embeddings.position_embedding.weight"
_NORM = "text_model.encoder.layers.0.layer_norm1.weight"

INDICES: Mapping[str, tuple[Callable[[Path], object], str | None]] = {
    "valid": (shard, None),
    "missing-shard": (_missing_shard, "missing-shard"),
    "path-traversal": (_outside, "unsafe-path"),
    "absolute-path": (_remapped(lambda _, __: "/etc/hostname"), "unsafe-path"),
    "tensor-not-in-shard": (
        _remapped(lambda key, name: _SHARDS[1] if key == _POSITIONS else name),
        "corrupt-index",
    ),
    "tensor-in-two-shards": (_twice, "corrupt-index"),
    "index-incomplete": (
        _remapped(lambda key, name: None if key == _NORM else name),
        "corrupt-index",
    ),
    "index-not-json": (_no_json, "corrupt-index"),
}
"""What spoils the text encoder's folder of a complete pipeline, and the code it leads to."""

VARIANT_SHARDS: Mapping[str, tuple[str, str]] = {
    "new": ("model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"),
    "legacy": ("model-00001-of-00002.fp16.safetensors", "model-00002-of-00002.fp16.safetensors"),
}
VARIANT_INDEX = "model.safetensors.index.fp16.json"
