"""Normalizing the tiny checkpoints as a user would, with all that their training config tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from corepress.domain.job import CheckpointOptions
from corepress_normalize.folder import normalize_folder

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"
ARCHITECTURES = ("sd15", "sd15-inpainting", "sd21-v", "sdxl-base", "sdxl-refiner", "controlnet")


def checkpoint(architecture: str) -> Path:
    return TINY / architecture / "model.safetensors"


def tiny_options(architecture: str, **more: Any) -> CheckpointOptions:
    """What tells the tiny sizes that no public checkpoint has."""
    folder = TINY / architecture
    return CheckpointOptions(
        original_config=yaml.safe_load((folder / "config.yaml").read_text()),
        config={
            path.name.split(".")[0]: json.loads(path.read_text())
            for path in folder.glob("*.config.json")
        },
        **more,
    )


def normalize_tiny(architecture: str, out: Path, **more: Any) -> dict[str, Any]:
    return normalize_folder(
        checkpoint(architecture), out, tiny_options(architecture, **more), ignore_progress
    )


def write_padded(path: Path) -> bytes:
    """Write a single file of 24 MB, most of which belongs to no component; its content."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(255, (20_000_000,), generator=generator).to(torch.uint8)
    save_file({**load_file(checkpoint("sd15")), "loss.logvar": noise}, path)
    return path.read_bytes()


def published_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A text encoder's weights as published repositories name them, whatever transformers does."""
    flat = "embeddings.token_embedding.weight" in state
    return {f"text_model.{name}" if flat else name: value for name, value in state.items()}


def ignore_progress(activity: str, done: float, total: float, unit: str) -> None:
    pass
