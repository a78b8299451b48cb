"""What this project began with: a converter that wrote shards which no single-file reader finds.

Since 0.28, diffusers saves what exceeds ``max_shard_size``, 10 GB by default, as shards; SDXL's
UNet has 10.3 GB in float32. Here the size is lowered and the UNet is tiny;
`tests/bench/bench_normalize.py` does it in full size.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from normalize_support import ignore_progress, normalize_tiny
from safetensors.torch import load_file

from corepress.domain.job import CheckpointOptions
from corepress_normalize.folder import normalize_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> UNet2DConditionModel:
    folder = tmp_path_factory.mktemp("seed") / "sdxl"
    normalize_tiny("sdxl-base", folder)
    return UNet2DConditionModel.from_pretrained(folder / "unet")


def converted(unet: UNet2DConditionModel, folder: Path, variant: str | None) -> Path:
    """As diffusers' own converter leaves it: more than the size, so two shards."""
    size_bytes = sum(tensor.nbytes for tensor in unet.state_dict().values())
    unet.save_pretrained(folder, max_shard_size=size_bytes * 3 // 4, variant=variant)
    assert len(list(folder.glob("*.safetensors"))) == 2
    assert not (folder / WEIGHTS).exists(), "the file that single-file readers look for"
    return folder


def test_diffusers_shards_what_it_saves() -> None:
    default = inspect.signature(UNet2DConditionModel.save_pretrained).parameters["max_shard_size"]
    sdxl_unet_bytes = 4 * 2_567_463_684
    assert default.default == "10GB"
    assert sdxl_unet_bytes > 10 * 10**9


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_two_shards_become_one_file(
    unet: UNet2DConditionModel, tmp_path: Path, variant: str | None
) -> None:
    saved = unet.half() if variant == "fp16" else unet.float()
    source = converted(saved, tmp_path / "converted", variant)
    normalize_folder(source, tmp_path / "out", CheckpointOptions(), ignore_progress)
    (weights,) = (tmp_path / "out").rglob("*.safetensors")
    assert weights == tmp_path / "out" / "unet" / WEIGHTS
    assert not list((tmp_path / "out").rglob("*.index*.json"))
    stored = load_file(weights)
    expected = saved.state_dict()
    assert stored.keys() == expected.keys()
    for name, tensor in expected.items():
        assert stored[name].dtype == tensor.dtype, name
        assert torch.equal(stored[name], tensor), name
    opened = UNet2DConditionModel.from_pretrained(weights.parent, torch_dtype=tensor.dtype)
    for name, parameter in opened.state_dict().items():
        assert torch.equal(parameter, expected[name]), name


def test_shards_of_a_variant_need_its_name(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    """Which is why nobody finds them who does not know it."""
    converted(unet.half(), tmp_path / "converted", "fp16")
    with pytest.raises(OSError, match="no file named diffusion_pytorch_model"):
        UNet2DConditionModel.from_pretrained(tmp_path / "converted")
