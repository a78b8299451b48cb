"""Normalized weights are, bit for bit, those that diffusers' own converters make."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from normalize_support import (
    ARCHITECTURES,
    TINY,
    checkpoint,
    ignore_progress,
    normalize_tiny,
    tiny_options,
)
from safetensors.torch import load_file, save_file

from corepress.domain.errors import Float16Overflow, NonFiniteWeights
from corepress_normalize.folder import normalize_folder

TENSOR = "model.diffusion_model.middle_block.0.in_layers.2.weight"
NORMALIZED_TENSOR = "mid_block.resnets.0.conv1.weight"

Weights = dict[str, torch.Tensor]


def weights(folder: Path) -> Weights:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def assert_identical(actual: Weights, expected: Weights) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


def changed_checkpoint(path: Path, changes: Weights) -> Path:
    save_file({**load_file(checkpoint("sd15")), **changes}, path)
    return path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensors_are_those_of_the_recorded_mapping(tmp_path: Path, architecture: str) -> None:
    normalize_tiny(architecture, tmp_path / "out")
    source = load_file(checkpoint(architecture))
    mapping = json.loads((TINY / architecture / "diffusers_mapping.json").read_text())
    for component, tensors in mapping.items():
        expected = {
            name: apply(source[original], operation)
            for name, (original, operation) in tensors.items()
            if not is_left_out(architecture, name)
        }
        assert_identical(weights(tmp_path / "out" / component), expected)


def is_left_out(architecture: str, name: str) -> bool:
    """Constants that current libraries do not store, and the layer that SD 2 does not use."""
    return name.endswith("position_ids") or (
        architecture == "sd21-v" and name.startswith("text_model.encoder.layers.2.")
    )


def apply(tensor: torch.Tensor, operation: str) -> torch.Tensor:
    if operation == "squeeze":
        return tensor.squeeze(-1).squeeze(-1)
    if operation == "transpose":
        return tensor.T
    if operation.startswith("rows "):
        part, parts = map(int, operation.removeprefix("rows ").split("/"))
        return tensor.chunk(parts)[part]
    assert operation == "copy"
    return tensor


OPEN_CLIP = {
    ("sd21-v", "text_encoder"): "cond_stage_model.model.",
    ("sdxl-base", "text_encoder_2"): "conditioner.embedders.1.model.",
    ("sdxl-refiner", "text_encoder_2"): "conditioner.embedders.0.model.",
}


def converted(architecture: str, component: str, config: dict[str, Any]) -> Weights:
    """What diffusers' converters make of a tiny checkpoint."""
    source = load_file(checkpoint(architecture))
    if component == "unet":
        return convert_ldm_unet_checkpoint(source, config)
    if component == "vae":
        return convert_ldm_vae_checkpoint(source, config)
    if component == "controlnet":
        return convert_controlnet_checkpoint(source, config)
    if (architecture, component) in OPEN_CLIP:
        model = SimpleNamespace(config=SimpleNamespace(**config))
        return convert_open_clip_checkpoint(model, source, OPEN_CLIP[architecture, component])
    return convert_ldm_clip_checkpoint(source)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensors_are_those_of_the_converters_of_diffusers(
    tmp_path: Path, architecture: str
) -> None:
    report = normalize_tiny(architecture, tmp_path / "out")
    for component in report["components"]:
        config = json.loads((tmp_path / "out" / component / "config.json").read_text())
        expected = converted(architecture, component, config)
        assert_identical(
            weights(tmp_path / "out" / component),
            {k: v for k, v in expected.items() if not is_left_out(architecture, k)},
        )


def test_float16_is_rounded_as_torch_rounds(tmp_path: Path) -> None:
    report = normalize_tiny("sd15", tmp_path / "half", precision="fp16")
    normalize_tiny("sd15", tmp_path / "full")
    for name in ("unet", "vae", "text_encoder"):
        full = weights(tmp_path / "full" / name)
        assert_identical(
            weights(tmp_path / "half" / name), {key: t.half() for key, t in full.items()}
        )
        assert report["components"][name]["precision"] == "float16"


def test_float32_on_request(tmp_path: Path) -> None:
    normalize_tiny("sd21-v", tmp_path / "half")
    normalize_tiny("sd21-v", tmp_path / "full", precision="fp32")
    half = weights(tmp_path / "half" / "text_encoder")
    assert_identical(
        weights(tmp_path / "full" / "text_encoder"), {key: t.float() for key, t in half.items()}
    )


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64]
)
def test_other_types_are_taken_to_what_core_ml_has(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {
        name: t.to(dtype) if t.is_floating_point() else t
        for name, t in load_file(checkpoint("sd15")).items()
    }
    save_file(stored, tmp_path / "model.safetensors")
    normalize_folder(
        tmp_path / "model.safetensors", tmp_path / "out", tiny_options("sd15"), ignore_progress
    )
    wanted = torch.float32 if dtype == torch.float64 else torch.float16
    actual = weights(tmp_path / "out" / "unet")[NORMALIZED_TENSOR]
    assert actual.dtype == wanted
    assert torch.equal(actual, stored[TENSOR].to(wanted))


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, "fp16"), (torch.bfloat16, "auto")]
)
def test_what_float16_cannot_hold_stays_float32_and_is_named(
    tmp_path: Path, dtype: torch.dtype, precision: str
) -> None:
    large = load_file(checkpoint("sd15"))[TENSOR].to(dtype)
    large[0, 0, 0, 0] = 70_000.0
    source = changed_checkpoint(tmp_path / "large.safetensors", {TENSOR: large})
    options = tiny_options("sd15", precision=precision)
    report = normalize_folder(source, tmp_path / "out", options, ignore_progress)
    unet = weights(tmp_path / "out" / "unet")
    assert torch.equal(unet.pop(NORMALIZED_TENSOR), large.float())
    others = torch.float16 if precision == "fp16" else torch.float32
    assert {t.dtype for t in unet.values()} == {others}
    (decision,) = [d for d in report["decisions"] if "kept in float32" in d["choice"]]
    assert NORMALIZED_TENSOR in decision["choice"]


def test_what_float16_cannot_hold_is_refused_by_name_in_all_components(tmp_path: Path) -> None:
    other = "first_stage_model.decoder.conv_out.weight"
    large = {name: load_file(checkpoint("sd15"))[name] for name in (TENSOR, other)}
    for tensor in large.values():
        tensor.view(-1)[-1] = -70_000.0
    source = changed_checkpoint(tmp_path / "large.safetensors", large)
    options = tiny_options("sd15", precision="fp16", overflow="refuse")
    with pytest.raises(Float16Overflow) as refusal:
        normalize_folder(source, tmp_path / "out", options, ignore_progress)
    assert "2 tensors" in refusal.value.message
    assert all(name in refusal.value.message for name in large)
    assert not (tmp_path / "out").exists()
    whole = tiny_options("sd15", precision="fp32", overflow="refuse")
    normalize_folder(source, tmp_path / "out", whole, ignore_progress)
    assert torch.equal(weights(tmp_path / "out" / "unet")[NORMALIZED_TENSOR], large[TENSOR])


def test_nan_and_infinity_are_refused_by_name_in_all_components(tmp_path: Path) -> None:
    tensors = load_file(checkpoint("sd15"))
    other = "first_stage_model.decoder.conv_out.weight"
    tensors[TENSOR].view(-1)[-1] = np.nan
    tensors[other].view(-1)[0] = np.inf
    source = changed_checkpoint(
        tmp_path / "bad.safetensors", {TENSOR: tensors[TENSOR], other: tensors[other]}
    )
    with pytest.raises(NonFiniteWeights) as refusal:
        normalize_folder(source, tmp_path / "out", tiny_options("sd15"), ignore_progress)
    assert TENSOR in refusal.value.message
    assert other in refusal.value.message
    assert "2 tensors" in refusal.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]

    report = normalize_folder(
        source,
        tmp_path / "out",
        tiny_options("sd15", allow_non_finite=True, precision="fp16"),
        ignore_progress,
    )
    assert weights(tmp_path / "out" / "unet")[NORMALIZED_TENSOR].isnan().sum() == 1
    assert any(TENSOR in decision["choice"] for decision in report["decisions"])
