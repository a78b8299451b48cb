"""Variants and single components of the tiny checkpoints, as diffusers opens what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DiffusionPipeline, UNet2DConditionModel
from normalize_support import checkpoint, ignore_progress, normalize_tiny, tiny_options
from safetensors.torch import load_file, save_file

from corepress.domain.errors import MissingConfig
from corepress.domain.job import CheckpointOptions
from corepress_normalize.folder import normalize_folder

Weights = dict[str, torch.Tensor]


def assert_weights(model: torch.nn.Module, expected: Weights) -> None:
    actual = model.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name].float()) for name in actual)


@pytest.mark.parametrize(
    ("architecture", "pipeline"),
    [
        ("sd15", "StableDiffusionInstructPix2PixPipeline"),
        ("sdxl-base", "StableDiffusionXLInstructPix2PixPipeline"),
    ],
)
def test_editing_models_open_as_their_pipeline(
    tmp_path: Path, architecture: str, pipeline: str
) -> None:
    tensors = load_file(checkpoint(architecture))
    first = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[first] = tensors[first].repeat(1, 2, 1, 1).contiguous()
    save_file(tensors, tmp_path / "edit.safetensors")
    normalize_folder(
        tmp_path / "edit.safetensors", tmp_path / "out", tiny_options(architecture), ignore_progress
    )
    opened = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(opened).__name__ == pipeline
    assert opened.unet.config.in_channels == 8


COMPONENTS: dict[str, tuple[str, str, Any]] = {
    "unet": ("sdxl-base", "model.diffusion_model.", UNet2DConditionModel),
    "vae": ("sd15", "first_stage_model.", AutoencoderKL),
    "controlnet": ("controlnet", "control_model.", ControlNetModel),
}


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("layout", ["with prefix", "bare", "diffusers"])
def test_a_component_in_a_file_of_its_own(tmp_path: Path, component: str, layout: str) -> None:
    architecture, prefix, kind = COMPONENTS[component]
    normalize_tiny(architecture, tmp_path / "whole")
    (expected,) = (tmp_path / "whole" / component).glob("*.safetensors")
    config = json.loads((tmp_path / "whole" / component / "config.json").read_text())
    original = load_file(checkpoint(architecture))
    strip = "" if layout == "with prefix" else prefix
    tensors = {k.removeprefix(strip): v for k, v in original.items() if k.startswith(prefix)}
    if layout == "diffusers":
        tensors = load_file(expected)
    save_file(tensors, tmp_path / "part.safetensors")

    heads = {key: config[key] for key in ("attention_head_dim", "scaling_factor") if key in config}
    options = CheckpointOptions(config={component: heads})
    out = tmp_path / "out"
    report = normalize_folder(tmp_path / "part.safetensors", out, options, ignore_progress)
    assert report["components"].keys() == {component}
    assert not (out / "model_index.json").exists()
    assert (out / component / expected.name).read_bytes() == expected.read_bytes()
    assert_weights(
        kind.from_pretrained(out, subfolder=component, torch_dtype=torch.float32),
        load_file(expected),
    )


def test_a_vae_whose_scale_nothing_tells_is_refused(tmp_path: Path) -> None:
    prefix = "first_stage_model."
    original = load_file(checkpoint("sd15"))
    save_file(
        {k.removeprefix(prefix): v for k, v in original.items() if k.startswith(prefix)},
        tmp_path / "vae.safetensors",
    )
    with pytest.raises(MissingConfig, match="scaled by"):
        normalize_folder(
            tmp_path / "vae.safetensors", tmp_path / "out", CheckpointOptions(), ignore_progress
        )
    assert not (tmp_path / "out").exists()
