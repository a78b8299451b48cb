"""A composed checkpoint from the command line to a bundle, and the bundle held to its sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bundle_support import READ, SOURCE, corepress, manifest_of, run
from cli_support import write_recipe
from diffusers import AutoencoderKL
from normalize_support import normalize_tiny
from safetensors.torch import save_file

MODULE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_v"


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE like the checkpoint's, with other weights."""
    folder = tmp_path_factory.mktemp("vae")
    normalize_tiny("sd15", folder / "base")
    model = AutoencoderKL.from_pretrained(folder / "base" / "vae")
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder / "vae")
    return folder / "vae"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lora") / "style.safetensors"
    up, down = torch.ones(64, 2), torch.ones(2, 64)
    save_file({f"{MODULE}.lora_B.weight": up, f"{MODULE}.lora_A.weight": down}, path)
    return path


def test_a_bundle_of_a_composed_checkpoint(tmp_path: Path, vae: Path, lora: Path) -> None:
    recipe = write_recipe(tmp_path, "decoder", components=["vae_decoder"])
    composed = ("--vae", vae, "--lora", f"{lora}:-0.5", "--lora", lora.as_uri())
    bundle = run(SOURCE, recipe, *composed)
    manifest = manifest_of(bundle)
    first, second = manifest["composition"]["loras"]
    assert manifest["composition"]["vae"]["uri"] == "file:vae"
    assert (first["uri"], first["scale"], second["scale"]) == ("file:style.safetensors", -0.5, 1.0)
    assert first["sha256"] == second["sha256"]
    assert "| LoRA | file:style.safetensors at -0.5, sha256" in (bundle / "README.md").read_text()

    # the UNet that is not in this bundle has the LoRAs all the same
    plain = manifest_of(run(SOURCE, recipe))
    same = {name: d == plain["normalized"][name] for name, d in manifest["normalized"].items()}
    assert same == {"unet": False, "vae": False, "text_encoder": True}

    verify = ("verify", bundle, "--json", "--against", SOURCE, *READ)
    result = corepress(*verify, *composed)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["models"]["vae_decoder"]["same_weights"] is True
    result = corepress(*verify)
    assert json.loads(result.stdout)["models"]["vae_decoder"]["same_weights"] is False
    assert result.exit_code == 5


def test_inspect_shows_what_would_be_composed(tmp_path: Path, vae: Path, lora: Path) -> None:
    embedding = tmp_path / "embedding.safetensors"
    save_file({"emb_params": torch.zeros(8, 768)}, embedding)
    asked = ("inspect", SOURCE, *READ, "--vae", vae, "--lora", f"{lora}:2", "--lora", embedding)
    shown = corepress(*asked).stdout
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert f"VAE {vae}" in rows
    assert f"LoRA {lora} at 2: 1 of unet" in rows
    assert f"LoRA {embedding} at 1: does not fit" in rows
    assert "[unsupported-checkpoint] embedding.safetensors is a textual inversion" in shown
    report = json.loads(corepress(*asked, "--json").stdout)
    assert [lora["fits"] for lora in report["loras"]] == [True, False]
    assert report["vae"]["fits"] is True


def test_a_misfit_ends_normalizing_with_its_code(tmp_path: Path, vae: Path) -> None:
    out = tmp_path / "out"
    result = corepress("normalize", SOURCE, *READ, "--lora", SOURCE, "--out", out, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["code"] == "incompatible-lora"
    result = corepress("normalize", SOURCE, *READ, "--vae", vae / "x", "--out", out)
    assert result.exit_code == 3
    assert "source-not-found" in result.stderr
    assert not out.exists()
