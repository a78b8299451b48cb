"""A VAE that overflows in float16 is found by running it, whatever its configuration says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_support import corepress, write_recipe
from normalize_support import normalize_tiny
from normalized import WEIGHT_FILES
from safetensors.torch import load_file, save_file

from corepress.evaluate import Package, evaluate


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE by itself, the middle of whose decoder computes large numbers that a norm undoes."""
    folder = tmp_path_factory.mktemp("overflow")
    normalize_tiny("sd15", folder / "model")
    weights = load_file(folder / "model" / "vae" / WEIGHT_FILES["vae"])
    for name in ("weight", "bias"):
        weights[f"decoder.mid_block.resnets.1.conv2.{name}"] *= 1e6
    save_file(weights, folder / "model" / "vae" / WEIGHT_FILES["vae"], metadata={"format": "pt"})
    return folder / "model" / "vae"


def test_auto_takes_float32_for_the_half_that_overflows(source: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "auto", sizes=[[32, 32]])
    where = ("--state", tmp_path / "state", "--out", tmp_path / "out")
    corepress("run", source, "--recipe", recipe, *where)
    bundle = tmp_path / "out" / "vae" / "auto"
    components = json.loads((bundle / "manifest.json").read_text())["components"]
    assert components["vae_decoder"]["precision"] == "float32"
    assert components["vae_encoder"]["precision"] == "float16"
    assert components["vae_decoder"]["psnr_db"]["image"]["conversion"] > 100
    package = Package.open(bundle / "Resources" / "VAEDecoder.mlpackage")
    z = torch.randn(package.inputs[0].shape, generator=torch.Generator().manual_seed(0))
    assert evaluate(package, {"z": z}, "native")["image"].isfinite().all()


def test_float16_is_refused_where_it_overflows(source: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        "half",
        sizes=[[32, 32]],
        components=["vae_decoder"],
        precision={"default": "float16"},
    )
    where = ("--state", tmp_path / "state", "--out", tmp_path / "out")
    finished = corepress("run", source, "--recipe", recipe, *where, "--json", status=5)
    error = finished.document["error"]
    assert error["code"] == "verification-failed"
    assert "float16 ends at 65504" in error["message"]
