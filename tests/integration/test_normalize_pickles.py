"""Pickled checkpoints give the folders that the same tensors give as safetensors, byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DConditionModel
from normalize_support import TINY, checkpoint, ignore_progress, normalize_tiny, tiny_options
from safetensors.torch import load_file, save_file
from test_normalize_stage import Host

from corepress.cli import main
from corepress.domain.errors import UnsafePickle
from corepress.domain.job import CheckpointOptions
from corepress.domain.source_index import SourceIndex
from corepress_normalize.folder import normalize_folder

HOSTILE = Path(__file__).parents[1] / "fixtures" / "hostile" / "pickle"
FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
Tensors = dict[str, torch.Tensor]


def save(content: Any, path: Path, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def weights(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.safetensors")
    }


def normalized(source: Path, out: Path, **options: Any) -> dict[str, bytes]:
    options = {"allow_pickle": True, **options}
    normalize_folder(source, out, tiny_options("sd15", **options), ignore_progress)
    return weights(out)


def as_saved(tensors: Tensors) -> Tensors:
    return tensors


def in_one_storage(tensors: Tensors) -> Tensors:
    """All but whole numbers as views of one storage."""
    flat = torch.cat(
        [tensor.reshape(-1) for tensor in tensors.values() if tensor.is_floating_point()]
    )
    views, at = {}, 0
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            views[name] = tensor
            continue
        views[name] = flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    return views


def rearranged(tensors: Tensors) -> Tensors:
    """Matrices saved transposed, and kernels as GPUs like them."""
    changed = {
        name: tensor.T.contiguous().T
        if tensor.ndim == 2
        else tensor.to(memory_format=torch.channels_last)
        if tensor.ndim == 4
        else tensor
        for name, tensor in tensors.items()
    }
    assert not all(tensor.is_contiguous() for tensor in changed.values())
    return changed


def in_bfloat16(tensors: Tensors) -> Tensors:
    return {n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()}


def with_two_tensors_tied(tensors: Tensors) -> Tensors:
    name = "model.diffusion_model.out.0.weight"
    return {**tensors, name: tensors["model.diffusion_model.input_blocks.1.0.in_layers.0.weight"]}


@FORMATS
@pytest.mark.parametrize("architecture", ["sd15", "sdxl-base"])
@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_as_from_safetensors(
    tmp_path: Path, legacy: bool, architecture: str, precision: str
) -> None:
    tensors = load_file(checkpoint(architecture))
    content = {"epoch": 0, "state_dict": tensors, "lr_schedulers": []}
    source = save(content, tmp_path / "model.ckpt", legacy=legacy)
    options = tiny_options(architecture, precision=precision, allow_pickle=True)
    normalize_folder(source, tmp_path / "pickled", options, ignore_progress)
    normalize_tiny(architecture, tmp_path / "plain", precision=precision)
    assert weights(tmp_path / "pickled") == weights(tmp_path / "plain")


@FORMATS
@pytest.mark.parametrize("change", [in_one_storage, rearranged, in_bfloat16, with_two_tensors_tied])
def test_however_tensors_are_stored(
    tmp_path: Path, legacy: bool, change: Callable[[Tensors], Tensors]
) -> None:
    tensors = change(load_file(checkpoint("sd15")))
    contiguous = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    save_file(contiguous, tmp_path / "model.safetensors")
    source = save(tensors, tmp_path / "model.ckpt", legacy=legacy)
    expected = normalized(tmp_path / "model.safetensors", tmp_path / "plain")
    assert normalized(source, tmp_path / "pickled") == expected


def test_matrices_of_openclip_saved_transposed(tmp_path: Path) -> None:
    """Their fused projections are cut by rows, and their text projection is transposed."""
    tensors = load_file(checkpoint("sdxl-base"))
    source = save(rearranged(tensors), tmp_path / "model.ckpt")
    options = tiny_options("sdxl-base", allow_pickle=True)
    normalize_folder(source, tmp_path / "pickled", options, ignore_progress)
    normalize_tiny("sdxl-base", tmp_path / "plain")
    assert weights(tmp_path / "pickled") == weights(tmp_path / "plain")


def test_averages(tmp_path: Path) -> None:
    tensors = load_file(checkpoint("sd15"))
    prefix = "model.diffusion_model."
    averages = {
        "model_ema.diffusion_model" + name.removeprefix(prefix).replace(".", ""): tensor * 2
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    save_file({**tensors, **averages}, tmp_path / "ema.safetensors")
    source = save({"state_dict": {**tensors, **averages}}, tmp_path / "ema.ckpt")
    for ema in (False, True):
        expected = normalized(tmp_path / "ema.safetensors", tmp_path / f"plain{ema}", ema=ema)
        assert normalized(source, tmp_path / f"pickled{ema}", ema=ema) == expected


# folders


def pickled_folder(tmp_path: Path, variant: str = "", *, shards: bool = False) -> Path:
    """A diffusers folder whose weights are pickles, as they were published before safetensors."""
    folder = tmp_path / "folder"
    normalize_tiny("sd15", folder)
    (folder / "corepress.json").unlink()
    for path in list(folder.rglob("*.safetensors")):
        stem = "pytorch_model" if path.stem == "model" else path.stem
        tensors = load_file(path)
        path.unlink()
        if not shards:
            save(tensors, path.with_name(f"{stem}{variant}.bin"))
            continue
        weight_map = {}
        for number, part in enumerate((list(tensors)[::2], list(tensors)[1::2]), start=1):
            name = f"{stem}{variant}-0000{number}-of-00002.bin"
            save({key: tensors[key] for key in part}, path.with_name(name))
            weight_map |= dict.fromkeys(part, name)
        index = path.with_name(f"{stem}.bin.index{variant}.json")
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_folders(tmp_path: Path, variant: str, shards: bool) -> None:
    folder = pickled_folder(tmp_path, variant, shards=shards)
    with pytest.raises(UnsafePickle) as caught:
        normalize_folder(folder, tmp_path / "out", CheckpointOptions(), ignore_progress)
    assert "--allow-pickle" in caught.value.hint
    options = CheckpointOptions(allow_pickle=True)
    report = normalize_folder(folder, tmp_path / "out", options, ignore_progress)
    assert {c["variant"] for c in report["components"].values()} == {variant[1:] or None}
    normalize_tiny("sd15", tmp_path / "plain")
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")


@pytest.mark.parametrize("shard_size", ["10GB", "1MB"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_folders_that_diffusers_saved(tmp_path: Path, variant: str | None, shard_size: str) -> None:
    folder = tmp_path / "folder"
    normalize_tiny("sd15", folder)
    (folder / "corepress.json").unlink()
    expected = weights(folder)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(
        folder / "unet", safe_serialization=False, variant=variant, max_shard_size=shard_size
    )
    options = CheckpointOptions(allow_pickle=True)
    report = normalize_folder(folder, tmp_path / "out", options, ignore_progress)
    assert weights(tmp_path / "out") == expected
    decisions = [d["subject"] for d in report["decisions"] if d["choice"] == "read from a pickle"]
    assert decisions == ["unet"]


def test_safetensors_are_preferred_variant_by_variant(tmp_path: Path) -> None:
    folder = pickled_folder(tmp_path)
    unet, vae = folder / "unet", folder / "vae"
    tensors = torch.load(unet / "diffusion_pytorch_model.bin", weights_only=True)
    save_file(tensors, unet / "diffusion_pytorch_model.safetensors")
    (unet / "diffusion_pytorch_model.bin").write_bytes((HOSTILE / "pwned.ckpt").read_bytes())
    half = torch.load(vae / "diffusion_pytorch_model.bin", weights_only=True)
    save_file(
        {n: t.half() for n, t in half.items()}, vae / "diffusion_pytorch_model.fp16.safetensors"
    )
    normalize_tiny("sd15", tmp_path / "plain")
    for options, vae_variant in (({}, None), ({"precision": "fp16"}, "fp16")):
        given = CheckpointOptions(allow_pickle=True, **options)  # type: ignore[arg-type]
        report = normalize_folder(folder, tmp_path / "out", given, ignore_progress)
        assert report["components"]["vae"]["variant"] == vae_variant
        if not options:
            assert weights(tmp_path / "out") == weights(tmp_path / "plain")


# stages and the command line


@FORMATS
@pytest.mark.parametrize(
    ("change", "indexed"),
    [(as_saved, 380), (in_one_storage, 380), (rearranged, 380), (with_two_tensors_tied, 379)],
)
def test_stages(
    tmp_path: Path, legacy: bool, change: Callable[[Tensors], Tensors], indexed: int
) -> None:
    host = Host(tmp_path)
    tensors = change(load_file(checkpoint("sd15")))
    source = save(tensors, tmp_path / "model.ckpt", legacy=legacy)
    options = tiny_options("sd15", allow_pickle=True)
    fetched = host.fetch(source, options)
    handle = host.store.open(fetched.artifacts["index"].files["tensors.json"])
    index = SourceIndex.from_document(json.loads(handle.read(0, handle.size_bytes)))
    assert len(index.files["model.ckpt"].tensors) == indexed
    host.place(host.normalize(fetched, options), tmp_path / "stages")
    assert weights(tmp_path / "stages") == normalized(source, tmp_path / "command")


def test_only_the_needed_files_of_a_pickled_folder_are_fetched(tmp_path: Path) -> None:
    folder = pickled_folder(tmp_path, ".fp16", shards=True)
    (folder / "unet" / "diffusion_pytorch_model.bin.index.json").write_text("not JSON")
    save({"a": torch.ones(1)}, folder / "vae" / "diffusion_pytorch_model.bin")
    host = Host(tmp_path)
    options = CheckpointOptions(allow_pickle=True, variant="fp16")
    fetched = host.fetch(folder, options)
    names = {path for path in fetched.artifacts["source"].files if "diffusion" in path}
    assert names == {
        f"{component}/diffusion_pytorch_model{ending}"
        for component in ("unet", "vae")
        for ending in (
            ".bin.index.fp16.json",
            ".fp16-00001-of-00002.bin",
            ".fp16-00002-of-00002.bin",
        )
    }
    host.place(host.normalize(fetched, options), tmp_path / "stages")
    normalize_tiny("sd15", tmp_path / "plain")
    assert weights(tmp_path / "stages") == weights(tmp_path / "plain")


def run(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_the_command_line(tmp_path: Path) -> None:
    source = save({"state_dict": load_file(checkpoint("sd15"))}, tmp_path / "model.ckpt")
    tiny = TINY / "sd15"
    options = [
        *("--original-config", tiny / "config.yaml"),
        *("--config", f"text_encoder={tiny / 'text_encoder.config.json'}"),
    ]
    status, answer = run("inspect", source, *options)
    assert (status, answer["error"]["code"]) == (3, "unsafe-pickle")
    assert "--allow-pickle" in answer["error"]["hint"]
    status, answer = run("inspect", source, *options, "--allow-pickle")
    assert (status, answer["family"]) == (0, "sd15")
    out = tmp_path / "out"
    status, answer = run("normalize", source, *options, "--allow-pickle", "--out", out)
    assert (status, answer["family"]) == (0, "sd15")
    normalize_tiny("sd15", tmp_path / "plain")
    assert weights(out) == weights(tmp_path / "plain")


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("pwned.ckpt", "unsafe-pickle"),
        ("pwned_legacy.ckpt", "unsafe-pickle"),
        ("pwned_plain_pickle.bin", "unsafe-pickle"),
        ("pwned_renamed.safetensors", "corrupt-checkpoint"),
        ("not_a_pickle.ckpt", "corrupt-checkpoint"),
        ("benign_lightning_globals.ckpt", "unsupported-checkpoint"),
    ],
)
def test_hostile_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, code: str
) -> None:
    """The benign one passes the unpickler, and holds four tensors only."""
    monkeypatch.chdir(tmp_path)
    for command in (["inspect"], ["normalize", "--out", str(tmp_path / "out")]):
        status, answer = run(*command, HOSTILE / file, "--allow-pickle")
        assert (status, answer["error"]["code"]) == (3, code)
        if file in ("pwned.ckpt", "pwned_legacy.ckpt", "pwned_plain_pickle.bin"):
            assert "posix.system" in answer["error"]["message"]
        status, answer = run(*command, HOSTILE / file)
        refused = code if code == "corrupt-checkpoint" else "unsafe-pickle"
        assert (status, answer["error"]["code"]) == (3, refused)
    assert list(tmp_path.iterdir()) == []
