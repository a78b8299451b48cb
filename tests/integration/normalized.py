"""Normalized folders of the tiny checkpoints, as diffusers publishes their components."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers.loaders.single_file_utils import (
    create_unet_diffusers_config_from_ldm,
    create_vae_diffusers_config_from_ldm,
)
from safetensors.torch import load_file, save_file

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"
WEIGHT_FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}


def golden(name: str) -> dict[str, torch.Tensor]:
    """Inputs and outputs of the original authors' code for this tiny checkpoint."""
    return load_file(TINY / name / "golden.safetensors")


def write_normalized(name: str, folder: Path) -> Path:
    """Write every component of the tiny checkpoint `name` to ``folder/<component>/``."""
    source = load_file(TINY / name / "model.safetensors")
    mapping = json.loads((TINY / name / "diffusers_mapping.json").read_text())
    for component, tensors in mapping.items():
        weights = {
            key: _apply(source[original], operation)
            for key, (original, operation) in tensors.items()
            if not key.endswith("position_ids")
        }
        write_component(folder / component, component, _config(name, component), weights)
    return folder


def write_component(
    folder: Path, component: str, config: dict[str, Any], weights: dict[str, torch.Tensor]
) -> None:
    """Write one component as diffusers or transformers would."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / WEIGHT_FILES[component], metadata={"format": "pt"})


def _apply(tensor: torch.Tensor, operation: str) -> torch.Tensor:
    if operation == "squeeze":
        return tensor.squeeze(-1).squeeze(-1).contiguous()
    if operation == "transpose":
        return tensor.T.contiguous()
    if operation.startswith("rows "):
        part, parts = map(int, operation.removeprefix("rows ").split("/"))
        return tensor.chunk(parts)[part].contiguous()
    assert operation == "copy"
    return tensor


def _config(name: str, component: str) -> dict[str, Any]:
    if component.startswith("text_encoder"):
        config: dict[str, Any] = json.loads((TINY / name / f"{component}.config.json").read_text())
        return config
    ldm = yaml.safe_load((TINY / name / "config.yaml").read_text())
    if component == "vae":
        return {
            "_class_name": "AutoencoderKL",
            **create_vae_diffusers_config_from_ldm(ldm, {}, image_size=32),
        }
    config = create_unet_diffusers_config_from_ldm(ldm, {}, image_size=32)
    if config["class_embed_type"] == "projection":  # a context this narrow is not taken for SDXL
        config["class_embed_type"] = None
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = 256
    return {"_class_name": "UNet2DConditionModel", **config}
