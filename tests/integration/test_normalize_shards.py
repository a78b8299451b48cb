"""Shards, for those who ask: diffusers and transformers open them as they open their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_support import corepress, files_below, tiny_arguments, write_recipe
from diffusers import DiffusionPipeline, UNet2DConditionModel
from normalize_support import (
    TINY,
    checkpoint,
    ignore_progress,
    normalize_tiny,
    tiny_options,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from corepress.domain.job import CheckpointOptions
from corepress_normalize.folder import normalize_folder

SIZE = 400_000
LOADERS: dict[str, Any] = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    normalize_tiny("sd15", out)
    return out


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sharded") / "out"
    normalize_tiny("sd15", out, max_shard_size=SIZE)
    return out


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_identical(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


def data_bytes(path: Path) -> int:
    return sum(tensor.nbytes for tensor in load_file(path).values())


def test_shards_hold_the_same_tensors(whole: Path, sharded: Path) -> None:
    for component in ("unet", "vae", "text_encoder"):
        assert_identical(stored(sharded / component), stored(whole / component))
    assert len(list((sharded / "unet").glob("*.safetensors"))) > 2
    assert all(data_bytes(path) <= SIZE for path in (sharded / "unet").glob("*.safetensors"))
    assert (sharded / "text_encoder" / "model.safetensors").exists(), "small enough as it is"


def test_names_and_index_are_those_of_diffusers(sharded: Path, tmp_path: Path) -> None:
    """Where tensors are cut differs: our order is the canonical one, diffusers' the modules'."""
    UNet2DConditionModel.from_pretrained(sharded / "unet").save_pretrained(
        tmp_path, max_shard_size=SIZE
    )
    (theirs,) = tmp_path.glob("*.index.json")
    (ours,) = (sharded / "unet").glob("*.index.json")
    assert ours.name == theirs.name
    index, expected = (json.loads(path.read_text()) for path in (ours, theirs))
    assert index.keys() == expected.keys()
    assert index["metadata"] == expected["metadata"]
    assert index["weight_map"].keys() == expected["weight_map"].keys()
    names = sorted(path.name for path in (sharded / "unet").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == names
    assert names[0] == f"diffusion_pytorch_model-00001-of-{len(names):05}.safetensors"
    for name, shard in index["weight_map"].items():
        assert name in load_file(sharded / "unet" / shard)


def test_the_pipeline_opens(whole: Path, sharded: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(sharded)
    assert_identical(pipeline.unet.state_dict(), stored(whole / "unet"))
    assert_identical(pipeline.vae.state_dict(), stored(whole / "vae"))


@pytest.mark.parametrize("component", LOADERS)
def test_a_file_for_every_tensor(whole: Path, tmp_path: Path, component: str) -> None:
    """Tensors larger than the size come by themselves, and loaders find them all."""
    normalize_tiny("sd15", tmp_path / "out", max_shard_size=1)
    folder = tmp_path / "out" / component
    expected = stored(whole / component)
    assert len(list(folder.glob("*.safetensors"))) == len(expected)
    model, report = LOADERS[component].from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    parameters = {name.removeprefix("text_model."): p for name, p in model.state_dict().items()}
    assert_identical(
        {name: p for name, p in parameters.items() if not name.endswith("position_ids")},
        {name.removeprefix("text_model."): tensor for name, tensor in expected.items()},
    )


def test_a_size_that_all_fits_in_changes_nothing(whole: Path, tmp_path: Path) -> None:
    normalize_tiny("sd15", tmp_path / "out", max_shard_size=10**9)
    assert files_below(tmp_path / "out") == files_below(whole)


def test_shards_are_joined_again(whole: Path, sharded: Path, tmp_path: Path) -> None:
    """The manifest names other files and sources, all else is as it was."""
    normalize_folder(sharded, tmp_path / "out", CheckpointOptions(), ignore_progress)
    again, before = files_below(tmp_path / "out"), files_below(whole)
    del again["corepress.json"], before["corepress.json"]
    assert again == before


def test_the_manifest_knows_the_weights_and_the_files(whole: Path, sharded: Path) -> None:
    sharded_manifest, manifest = (
        json.loads((folder / "corepress.json").read_text()) for folder in (sharded, whole)
    )
    assert sharded_manifest["components"] == manifest["components"]
    assert sharded_manifest["files"].keys() == files_below(sharded).keys() - {"corepress.json"}


def test_what_float16_cannot_hold_is_kept_in_shards_too(tmp_path: Path) -> None:
    source = load_file(checkpoint("sd15"))
    name = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    source[name] = source[name].float()
    source[name][0] = 1e6
    save_file(source, tmp_path / "large.safetensors")
    for size, out in ((None, "whole"), (SIZE, "sharded")):
        options = tiny_options("sd15", precision="fp16", max_shard_size=size)
        normalize_folder(tmp_path / "large.safetensors", tmp_path / out, options, ignore_progress)
    assert_identical(stored(tmp_path / "sharded/unet"), stored(tmp_path / "whole/unet"))
    assert {tensor.dtype for tensor in stored(tmp_path / "sharded/unet").values()} == {
        torch.float16,
        torch.float32,
    }


def test_sharded_weights_are_converted_and_need_no_second_conversion(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "small", sizes=[[32, 32]], components=["vae_decoder"])
    common = ("run", *tiny_arguments("sd15"), "--recipe", recipe, "--json")
    state = ("--state", tmp_path / "state")
    first = corepress(*common, *state, "--max-shard-size", "100kB", "--out", tmp_path / "sharded")
    second = corepress(*common, *state, "--out", tmp_path / "whole")
    cached = {
        action.split("-")[0]: each["cached"]
        for action, each in second.document["jobs"][0]["actions"].items()
    }
    assert cached == {"fetch": True, "normalize": False, "convert": True, "publish": True}
    assert first.document["jobs"][0]["errors"] == {}
    assert files_below(tmp_path / "sharded") == files_below(tmp_path / "whole")


@pytest.mark.parametrize("size", ["0", "-5GB", "5 elephants", "", "nan"])
def test_sizes_that_are_none(size: str, tmp_path: Path) -> None:
    finished = corepress(
        *("normalize", TINY / "sd15/model.safetensors", "--out", tmp_path / "out"),
        *("--max-shard-size", size),
        status=2,
    )
    assert "--max-shard-size" in finished.stderr
    assert not (tmp_path / "out").exists()
