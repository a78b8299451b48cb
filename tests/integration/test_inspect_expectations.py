"""What `inspect` says will be produced is what is produced."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import corepress, tiny_arguments, write_recipe
from diffusers import SD3Transformer2DModel


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--precision", "fp16"],
        ["--precision", "fp32", "--max-shard-size", "300kB"],
    ],
)
@pytest.mark.parametrize("name", ["sd15", "sdxl-base"])
def test_weight_files(name: str, options: list[str], tmp_path: Path) -> None:
    arguments = [*tiny_arguments(name), *options, "--json"]
    expected = corepress("inspect", *arguments).document
    manifest = corepress("normalize", *arguments, "--out", tmp_path / "out").document
    written = {
        path: entry["bytes"]
        for path, entry in manifest["files"].items()
        if path.endswith(".safetensors")
    }
    assert expected["produces"]["normalize"] == written
    needed = expected["needs"]["by_command"]["normalize"]
    assert needed["disk_bytes"] == sum(written.values())


def test_models(tmp_path: Path) -> None:
    """All but the size of the graph is told beforehand, and the disk holds it."""
    recipe = write_recipe(tmp_path, "small", components=["text_encoder", "vae_encoder"])
    arguments = tiny_arguments("sd15")
    expected = corepress("inspect", *arguments, "--json").document
    state = tmp_path / "state"
    corepress("run", *arguments, "--recipe", recipe, "--out", tmp_path / "out", "--state", state)
    resources = tmp_path / "out" / "model" / "small" / "Resources"
    for name in ("TextEncoder.mlpackage", "VAEEncoder.mlpackage"):
        (told,) = (
            size_bytes
            for model, size_bytes in expected["produces"]["run"].items()
            if model.startswith(name)
        )
        (weights,) = (resources / name).rglob("weight.bin")
        assert abs(weights.stat().st_size / told - 1) < 0.25, (
            "constants and padding of a tiny model"
        )


def test_what_cannot_be_converted_is_not_counted(tmp_path: Path) -> None:
    """A transformer of Stable Diffusion 3 is normalized and no more."""
    SD3Transformer2DModel(
        sample_size=32,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=16,
        pos_embed_max_size=16,
    ).save_pretrained(tmp_path / "sd3")
    expected = corepress("inspect", tmp_path / "sd3", "--json").document
    assert expected["produces"]["run"] == {}
    written = sum(expected["produces"]["normalize"].values())
    assert expected["needs"]["disk_bytes"] == written
    assert expected["needs"]["memory_bytes"] == 300_000_000


def test_words_for_people() -> None:
    shown = corepress("inspect", *tiny_arguments("sd15"), "--max-shard-size", "2MB").stdout
    assert "will be produced by normalize:" in shown
    assert "unet/diffusion_pytorch_model-00001-of-00002.safetensors" in shown
    assert "Unet.mlpackage (128x128, float16)" in shown
    assert "of disk" in shown
