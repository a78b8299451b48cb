"""``corepress inspect`` on published checkpoints in full size, of which only the header is real."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from identify_support import MANIFESTS, header_only, manifest

from corepress.cli.main import main

VAE = {"vae": 83_653_863}
CLIP_L = {"text_encoder": 123_060_480}
OPENCLIP_H = {"text_encoder": 340_387_840}  # without its last layer
OPENCLIP_G = {"text_encoder_2": 694_659_840}
PUBLISHED = {
    "sd15": ("sd15", {"unet": 859_520_964, **VAE, **CLIP_L}),
    "sd15-ema": ("sd15", {"unet": 859_520_964, **VAE, **CLIP_L}),
    "sd15-inpainting": ("sd15-inpainting", {"unet": 859_535_364, **VAE, **CLIP_L}),
    "sd21": ("sd21", {"unet": 865_910_724, **VAE, **OPENCLIP_H}),
    "sd20-inpainting": ("sd21-inpainting", {"unet": 865_925_124, **VAE, **OPENCLIP_H}),
    "sdxl-base": ("sdxl", {"unet": 2_567_463_684, **VAE, **CLIP_L, **OPENCLIP_G}),
    "sdxl-refiner": ("sdxl-refiner", {"unet": 2_259_526_660, **VAE, **OPENCLIP_G}),
    "controlnet-sd15": ("controlnet-sd15", {"controlnet": 361_279_120}),
    "controlnet-sd15-v11": ("controlnet-sd15", {"controlnet": 361_279_120}),
}


def inspect(name: str, folder: Path, *options: str) -> Result:
    """Inspect a file as large as the published one, whose data is a hole."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        file = header_only(manifest(name))
        path.write_bytes(file.data)
        os.truncate(path, file.size_bytes)
    return CliRunner().invoke(main, ["inspect", str(path), *options])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints(name: str, tmp_path: Path) -> None:
    family, parameters = PUBLISHED[name]
    result = inspect(name, tmp_path, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["source"] == str(tmp_path / f"{name}.safetensors")
    assert document["layout"] == "single-file"
    assert document["family"] == family
    assert document["prediction_type"] == ("ambiguous" if name == "sd21" else "epsilon")
    assert document["ema"] == (name == "sd15-ema")
    components = document["components"]
    assert {part: found["parameters"] for part, found in components.items()} == parameters
    item_bytes = 2 if name.startswith("sdxl") else 4
    weights_bytes = item_bytes * sum(parameters.values())
    assert sum(found["bytes"] for found in components.values()) == weights_bytes
    needs = document["needs"]
    assert needs["by_command"]["run"]["disk_bytes"] == needs["disk_bytes"]
    assert needs["disk_bytes"] > needs["by_command"]["normalize"]["disk_bytes"] > weights_bytes
    assert needs["memory_bytes"] >= needs["by_command"]["normalize"]["memory_bytes"] > 0
    codes = [problem["code"] for problem in document["problems"]]
    assert codes == (["ambiguous-prediction-type"] if name == "sd21" else [])


def test_a_published_checkpoint_of_no_family(tmp_path: Path) -> None:
    (name,) = set(MANIFESTS) - PUBLISHED.keys()
    result = inspect(name, tmp_path, "--json")
    assert result.exit_code == 3
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "unsupported-checkpoint"
    assert "depth" in error["message"]
    assert "sd21" in error["message"]


def test_words_for_people(tmp_path: Path) -> None:
    lines = inspect("sd21", tmp_path).stdout.splitlines()
    assert lines[0] == str(tmp_path / "sd21.safetensors")
    rows = [line.split(maxsplit=1) for line in lines[1:]]
    assert ["family", "sd21 (StableDiffusionPipeline)"] in rows
    assert ["prediction", "ambiguous"] in rows
    assert ["unet", "865.9 M parameters     3.5 GB  F32 x 686"] in rows
    told = {row[0]: row[1] for row in rows}
    assert told["decided"].startswith("text_encoder: without the last layer (")
    assert told["problem"].startswith("[ambiguous-prediction-type] ")
    assert "--prediction-type epsilon or v_prediction" in lines[-1]


def test_a_stated_prediction_type_is_no_problem(tmp_path: Path) -> None:
    said = inspect("sd21", tmp_path, "--prediction-type", "v_prediction").stdout
    assert "v_prediction" in said
    assert "problem" not in said


def test_averaged_weights_on_request(tmp_path: Path) -> None:
    assert "unet: the weights themselves" in inspect("sd15-ema", tmp_path).stdout
    assert "unet: the EMA weights" in inspect("sd15-ema", tmp_path, "--ema").stdout
