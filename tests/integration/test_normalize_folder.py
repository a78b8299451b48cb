"""The normalized folder: what stands in it, and that it is complete or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from normalize_support import checkpoint, ignore_progress, normalize_tiny, tiny_options
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from corepress.domain.errors import (
    AmbiguousPredictionType,
    CorepressError,
    CorruptCheckpoint,
    InvalidRequest,
    MissingConfig,
    OutputConflict,
    SourceNotFound,
)
from corepress.domain.job import CheckpointOptions
from corepress_normalize.folder import normalize_folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_one_weight_file_per_component_and_the_manifest(tmp_path: Path) -> None:
    report = normalize_tiny("sdxl-base", tmp_path / "out")
    files = contents(tmp_path / "out")
    tokenizer = {"merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"}
    assert files.keys() == {
        "corepress.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(f"{slot}/{name}" for slot in ("tokenizer", "tokenizer_2") for name in tokenizer),
        *(f"{name}/config.json" for name in ("unet", "vae", "text_encoder", "text_encoder_2")),
        *(f"{name}/diffusion_pytorch_model.safetensors" for name in ("unet", "vae")),
        *(f"{name}/model.safetensors" for name in ("text_encoder", "text_encoder_2")),
    }
    assert json.loads(files.pop("corepress.json")) == report
    assert report["files"] == {
        path: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for path, data in files.items()
    }
    source = checkpoint("sdxl-base")
    assert report["source"]["uri"] == source.as_uri()
    assert report["source"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert report["family"] == "sdxl"


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    normalize_tiny("sd15", tmp_path / "one")
    normalize_tiny("sd15", tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_normalized_folder_normalizes_to_itself(tmp_path: Path) -> None:
    first = normalize_tiny("sdxl-refiner", tmp_path / "one")
    second = normalize_folder(
        tmp_path / "one", tmp_path / "two", CheckpointOptions(), ignore_progress
    )
    assert second["files"] == first["files"]
    assert second["components"] == first["components"]


def test_shards_and_variants_are_joined_to_the_same_bytes(tmp_path: Path) -> None:
    expected = normalize_tiny("sd21-v", tmp_path / "whole")
    folder = tmp_path / "sharded"
    shutil.copytree(tmp_path / "whole", folder)
    (folder / "corepress.json").unlink()
    for name, stem in {"unet": "diffusion_pytorch_model", "text_encoder": "model"}.items():
        shard(folder / name, stem, "fp16")
    report = normalize_folder(folder, tmp_path / "joined", CheckpointOptions(), ignore_progress)
    assert report["files"] == expected["files"]
    assert report["components"]["unet"]["variant"] == "fp16"
    assert not any("index" in path.removeprefix("model_index") for path in report["files"])


def shard(folder: Path, stem: str, variant: str) -> None:
    tensors = load_file(folder / f"{stem}.safetensors")
    (folder / f"{stem}.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}.{variant}-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.{variant}.json").write_text(json.dumps(index))


def test_a_tokenizer_of_ones_own_replaces_the_generated_one(tmp_path: Path) -> None:
    normalize_tiny("sd15", tmp_path / "first")
    modern = tmp_path / "tokenizer"
    CLIPTokenizer.from_pretrained(tmp_path / "first" / "tokenizer").save_pretrained(modern)
    (modern / "vocab.json").unlink(missing_ok=True)
    (modern / "merges.txt").unlink(missing_ok=True)
    assert (modern / "tokenizer.json").exists()
    normalize_tiny("sd15", tmp_path / "second", tokenizer=str(modern))
    for name in ("vocab.json", "merges.txt"):
        first, second = (tmp_path / out / "tokenizer" / name for out in ("first", "second"))
        assert parsed(second) == parsed(first)


def parsed(path: Path) -> object:
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_text().split("\n")


def test_an_earlier_folder_is_replaced_whole(tmp_path: Path) -> None:
    normalize_tiny("sd15", tmp_path / "out")
    normalize_tiny("controlnet", tmp_path / "out")
    assert contents(tmp_path / "out").keys() == {
        "corepress.json",
        "controlnet/config.json",
        "controlnet/diffusion_pytorch_model.safetensors",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_someone_else_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputConflict):
        normalize_tiny("sd15", out)
    assert contents(out) == {"thesis.txt": b"years of work"}


def test_the_source_is_not_replaced(tmp_path: Path) -> None:
    normalize_tiny("controlnet", tmp_path / "out")
    with pytest.raises(OutputConflict, match="holds the source"):
        normalize_folder(tmp_path / "out", tmp_path / "out", CheckpointOptions(), ignore_progress)
    assert (tmp_path / "out" / "corepress.json").exists()


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    normalize_tiny("controlnet", tmp_path / "out")
    assert (tmp_path / "out" / "corepress.json").exists()


def damaged(path: Path) -> Path:
    data = checkpoint("sd15").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (InvalidRequest, {"precision": "fp64"}),
        (MissingConfig, {"tokenizer": "."}),
    ],
)
def test_refusals_leave_nothing_behind(
    tmp_path: Path, error: type[CorepressError], options: dict[str, str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    if "tokenizer" in options:
        options = {"tokenizer": str(empty)}
    with pytest.raises(error):
        normalize_tiny("sd15", tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_damaged_absent_and_ambiguous_sources_leave_nothing_behind(tmp_path: Path) -> None:
    source = damaged(tmp_path / "model.safetensors")
    with pytest.raises(CorruptCheckpoint):
        normalize_folder(source, tmp_path / "out", tiny_options("sd15"), ignore_progress)
    with pytest.raises(SourceNotFound):
        normalize_folder(
            tmp_path / "absent", tmp_path / "out", CheckpointOptions(), ignore_progress
        )
    configs = {**tiny_options("sd21-v").config, "unet": {"attention_head_dim": [4, 8]}}
    without_yaml = CheckpointOptions(config=configs)
    with pytest.raises(AmbiguousPredictionType) as refusal:
        normalize_folder(checkpoint("sd21-v"), tmp_path / "out", without_yaml, ignore_progress)
    assert "--prediction-type" in refusal.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


STUCK = """
import sys, threading
from pathlib import Path
from corepress.domain.job import CheckpointOptions
from corepress_normalize.folder import normalize_folder

def stop(activity, done, total, unit):
    print("working", flush=True)
    threading.Event().wait()

normalize_folder(Path(sys.argv[1]), Path(sys.argv[2]), CheckpointOptions(), stop)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    normalize_tiny("controlnet", tmp_path / "source")
    out = tmp_path / "out"
    command = [sys.executable, "-c", STUCK, str(tmp_path / "source"), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"working\n"
        normalize_tiny("controlnet", tmp_path / "other")
        assert not out.exists()
        os.kill(process.pid, signal.SIGKILL)
    assert not out.exists()
    assert list(tmp_path.glob(".out.corepress-*"))
    normalize_tiny("controlnet", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "source"]
