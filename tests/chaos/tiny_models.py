"""Tiny checkpoints, each of which is another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from safetensors.numpy import load_file, save_file

_TINY = Path(__file__).parents[1] / "fixtures" / "tiny" / "sd15"
_CHANGED = "cond_stage_model.transformer.text_model.final_layer_norm.bias"

OPTIONS: dict[str, Any] = {
    "original_config": yaml.safe_load((_TINY / "config.yaml").read_text()),
    "config": {"text_encoder": json.loads((_TINY / "text_encoder.config.json").read_text())},
}
"""What tells their sizes, of which no published model is."""
COMPONENTS = ("text_encoder",)


def write_tiny(folder: Path, number: int) -> Path:
    """Write a checkpoint whose text encoder no other number has."""
    tensors = load_file(_TINY / "model.safetensors")
    tensors[_CHANGED] = tensors[_CHANGED] + tensors[_CHANGED].dtype.type(number / 64)
    path = folder / f"tiny-{number}.safetensors"
    save_file(tensors, path)
    return path
