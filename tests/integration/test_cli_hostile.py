"""Hostile checkpoints from the outside: a code, an exit status, and nothing left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import COMMAND, corepress, files_below, invoke, tiny_arguments, write_recipe
from hostile_support import (
    FILES,
    HOSTILE,
    INDICES,
    VARIANT_INDEX,
    VARIANT_SHARDS,
    pipeline_folder,
    shard,
)
from safetensors.torch import load_file, save_file

SIZES = tiny_arguments("sd15")[1:]
INPUT_STATUS = 3
MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipeline_folder(tmp_path_factory.mktemp("pipeline") / "sd15")


@pytest.fixture
def folder(pipeline: Path, tmp_path: Path) -> Path:
    """A copy of the pipeline, to be spoilt."""
    return Path(shutil.copytree(pipeline, tmp_path / "pipeline"))


def assert_refused(source: Path, code: str, scratch: Path) -> None:
    """By `inspect`, `normalize` and `run`, in the same words, leaving nothing."""
    recipe = write_recipe(scratch, "small", sizes=[[32, 32]], components=["text_encoder"])
    out = scratch / "out"
    commands: list[list[str | Path]] = [
        ["inspect", source, *SIZES],
        ["normalize", source, *SIZES, "--out", out],
        ["run", source, *SIZES, "--recipe", recipe, "--out", out, "--state", scratch / "state"],
    ]
    for command in commands:
        error = invoke(*command, status=INPUT_STATUS)["error"]
        assert error["code"] == code, error
        assert error["message"]
        assert error["hint"]
        assert not out.exists()
    assert not list(Path.cwd().rglob("PWNED"))


@pytest.mark.parametrize("name", sorted(FILES))
def test_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(HOSTILE / name, FILES[name], tmp_path)


@pytest.mark.parametrize("name", [name for name, (_, code) in INDICES.items() if code])
def test_indices(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spoil, code = INDICES[name]
    spoil(folder / "text_encoder")
    assert code is not None
    assert_refused(folder, code, tmp_path)


def test_a_well_formed_index(folder: Path, pipeline: Path, tmp_path: Path) -> None:
    INDICES["valid"][0](folder / "text_encoder")
    assert_normalizes_to(folder, pipeline, tmp_path)


@pytest.mark.parametrize("naming", sorted(VARIANT_SHARDS))
def test_shards_of_a_variant(naming: str, folder: Path, pipeline: Path, tmp_path: Path) -> None:
    shard(folder / "text_encoder", VARIANT_SHARDS[naming], VARIANT_INDEX)
    rename_to_variant(folder, "unet", "vae")
    assert_normalizes_to(folder, pipeline, tmp_path)


def test_only_a_variant(folder: Path, pipeline: Path, tmp_path: Path) -> None:
    rename_to_variant(folder, "unet", "vae", "text_encoder")
    assert_normalizes_to(folder, pipeline, tmp_path)
    (report,) = (invoke("inspect", folder, status=0),)
    assert {c["variant"] for c in report["components"].values()} == {"fp16"}


def test_a_variant_of_some_components(folder: Path, pipeline: Path, tmp_path: Path) -> None:
    rename_to_variant(folder, "unet")
    assert_normalizes_to(folder, pipeline, tmp_path)
    error = invoke("inspect", folder, "--variant", "bf16", status=INPUT_STATUS)["error"]
    assert error["code"] == "missing-variant"
    assert "fp16" in error["message"]


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    """Headers don't show them: `inspect` succeeds, what reads the weights refuses them by name."""
    source = tmp_path / "nan.safetensors"
    tensors = load_file(tiny_arguments("sd15")[0])
    unet, vae = "model.diffusion_model.out.2.bias", "first_stage_model.decoder.conv_out.weight"
    tensors[unet][0] = float("nan")
    tensors[vae][0, 0, 0, 0] = float("inf")
    save_file(tensors, source)
    invoke("inspect", source, *SIZES, status=0)
    out = tmp_path / "out"
    recipe = write_recipe(tmp_path, "small", sizes=[[32, 32]], components=["text_encoder"])
    for command in (
        ("normalize", source, *SIZES, "--out", out),
        ("run", source, *SIZES, "--recipe", recipe, "--out", out, "--state", tmp_path / "state"),
    ):
        error = invoke(*command, status=INPUT_STATUS)["error"]
        assert error["code"] == "non-finite-weights"
        assert unet in error["message"]
        assert vae in error["message"]
        assert "--allow-non-finite" in error["hint"]
        assert not out.exists()
    invoke("normalize", source, *SIZES, "--out", out, "--allow-non-finite", status=0)


@pytest.mark.parametrize("name", sorted(FILES)[:2] + sorted(FILES)[-2:])
def test_in_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    finished = corepress("inspect", HOSTILE / name, "--json", status=INPUT_STATUS, cwd=tmp_path)
    assert finished.document["error"]["code"] == FILES[name]
    assert f"error [{FILES[name]}]" in finished.stderr
    assert list(tmp_path.iterdir()) == []


PEAK_OF = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a command as a small process's only child, since a child's peak begins with its parent's."""


def test_memory_stays_bounded(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.safetensors"
    header = b'{"a":[' + b"{}," * 33_000_000 + b"{}]}"  # 24 times as large when parsed
    bomb.write_bytes(len(header).to_bytes(8, "little") + header)
    for source in (HOSTILE / "safetensors" / "header_len_huge.safetensors", bomb):
        command = [sys.executable, "-c", PEAK_OF, *COMMAND, "inspect", str(source)]
        told = subprocess.run(command, capture_output=True, check=True).stdout
        status, peak = map(int, told.split())
        assert status == INPUT_STATUS
        assert peak * MAXRSS_UNIT_BYTES < 300e6


def rename_to_variant(folder: Path, *components: str) -> None:
    for component in components:
        (file,) = (folder / component).glob("*.safetensors")
        file.rename(file.with_suffix(".fp16.safetensors"))


def assert_normalizes_to(folder: Path, pipeline: Path, scratch: Path) -> None:
    """The same weight files again: one per component, no variant in its name, no index."""
    invoke("normalize", folder, "--out", scratch / "out", status=0)
    out, expected = (
        {path: data for path, data in files_below(at).items() if not path.endswith(".json")}
        for at in (scratch / "out", pipeline)
    )
    assert out == expected
    assert not list((scratch / "out").rglob("*.index.*"))
