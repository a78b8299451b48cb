"""``corepress run``: published bundles hold models that give what the original code gave."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from cli_support import Finished, corepress, files_below, invoke, tiny_arguments, write_recipe
from diffusers import DiffusionPipeline
from golden_figures import (
    TEXT_ENCODERS,
    text_encoder_db,
    threshold_db,
    unet_db,
    vae_decoder_db,
    vae_encoder_db,
)
from PIL import Image
from process_support import Started
from safetensors.torch import load_file, save_file
from tokenizer_support import small_tokenizer
from torch import cat

from corepress.evaluate import Package

GOLDEN_SIZE = [32, 32]
DAYS_AHEAD = 400
ANOTHER_DAY = f"""
import datetime, os, pathlib, time_machine
ahead = datetime.datetime.now() + datetime.timedelta(days={DAYS_AHEAD})
time_machine.travel(ahead, tick=True).start()
pathlib.Path(__file__).with_name(f"{{os.getpid()}}.day").write_text(str(datetime.date.today()))
"""
"""Shifts the clock of every Python process, which tells the day that it lives in."""
MODELS = {
    "sd15": {"TextEncoder", "Unet", "VAEDecoder", "VAEEncoder"},
    "sdxl-base": {"TextEncoder", "TextEncoder2", "Unet", "VAEDecoder", "VAEEncoder"},
}
FIXTURES = sorted(MODELS)


@dataclass(frozen=True)
class Job:
    """A finished run of a tiny checkpoint at the size of its golden outputs."""

    name: str
    folder: Path
    finished: Finished

    @property
    def bundle(self) -> Path:
        return self.folder / "out" / "model" / "golden"

    @property
    def manifest(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.bundle / "manifest.json").read_text())
        return document

    @property
    def packages(self) -> Mapping[str, Package]:
        return {
            component: Package.open(self.bundle / entry["path"])
            for component, entry in self.manifest["components"].items()
        }

    def again(self, recipe: Path, out: str, *arguments: str | Path) -> Finished:
        """Another run with the same state."""
        return corepress(
            "run",
            *tiny_arguments(self.name),
            *arguments,
            *("--json", "--recipe", recipe),
            *("--state", self.folder / "state", "--out", self.folder / out),
        )


@pytest.fixture(scope="module")
def run_job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def run(name: str) -> Job:
        folder = tmp_path_factory.mktemp(name)
        recipe = write_recipe(folder, "golden", sizes=[GOLDEN_SIZE])
        job = Job(name, folder, Finished(0, "", ""))
        return Job(name, folder, job.again(recipe, "out"))

    return run


def cached(finished: Finished) -> dict[str, bool]:
    """Whether each step was done before, by its stage and component."""
    (job,) = finished.document["jobs"]
    return {node: action["cached"] for node, action in job["actions"].items()}


@pytest.mark.parametrize("name", FIXTURES)
def test_the_bundle_is_laid_out_as_apps_read_it(run_job: Any, name: str) -> None:
    job = run_job(name)
    top = {path.name for path in job.bundle.iterdir()}
    assert top == {"Resources", "manifest.json", "README.md", "SHA256SUMS"}
    resources = {path.name for path in (job.bundle / "Resources").iterdir()}
    models = {f"{model}.mlpackage" for model in MODELS[name]}
    assert resources == models | {"vocab.json", "merges.txt"}
    for line in (job.bundle / "SHA256SUMS").read_text().splitlines():
        digest, path = line.split("  ")
        assert hashlib.sha256((job.bundle / path).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", FIXTURES)
def test_unet_of_a_bundle(run_job: Any, name: str) -> None:
    figures = unet_db(name, run_job(name).packages["unet"])
    assert min(figures.values()) > threshold_db(name, "float16"), figures


@pytest.mark.parametrize("name", FIXTURES)
def test_vae_of_a_bundle(run_job: Any, name: str) -> None:
    job = run_job(name)
    # SDXL's own VAE overflows in float16
    precision = "float32" if name == "sdxl-base" else "float16"
    for component, figure_db in (("vae_decoder", vae_decoder_db), ("vae_encoder", vae_encoder_db)):
        assert job.manifest["components"][component]["precision"] == precision
        assert figure_db(name, job.packages[component]) > threshold_db(name, precision)


@pytest.mark.parametrize(
    ("name", "component"), [key for key in TEXT_ENCODERS if key[0] in FIXTURES]
)
def test_text_encoders_of_a_bundle(run_job: Any, name: str, component: str) -> None:
    figures = text_encoder_db(name, component, run_job(name).packages[component])
    assert min(figures.values()) > threshold_db(name, "float16"), figures


@pytest.mark.parametrize("name", FIXTURES)
def test_every_figure_is_reported(run_job: Any, name: str) -> None:
    job = run_job(name)
    (document,) = job.finished.document["jobs"]
    build = document["builds"]["golden"]
    assert build["path"] == str(job.bundle)
    assert build["psnr_db"].keys() == job.manifest["components"].keys()
    for component, entry in job.manifest["components"].items():
        assert entry["psnr_db"] == build["psnr_db"][component]
        gate = 100 if entry["precision"] == "float32" else 60
        assert all(figure["conversion"] > gate for figure in entry["psnr_db"].values())


def test_killed_in_its_unet_and_finished_on_another_day(run_job: Any, tmp_path: Path) -> None:
    """Neither leaves a trace in the bundle."""
    job = run_job("sd15")
    (tmp_path / "sitecustomize.py").write_text(ANOTHER_DAY)
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    arguments: list[str | Path] = [
        *("run", *tiny_arguments("sd15"), "--recipe", job.folder / "golden.yaml", "--json"),
        *("--state", tmp_path / "state", "--out", tmp_path / "out"),
    ]
    command = Started(arguments, tmp_path / "log", environment)
    command.wait_for("convert-unet")
    time.sleep(2)  # somewhere in the middle
    stage, *_ = command.kill()
    lived = date.fromisoformat((tmp_path / f"{stage.pid}.day").read_text())
    assert lived - date.today() >= timedelta(days=DAYS_AHEAD - 1)
    assert not (tmp_path / "out").exists()
    steps = cached(corepress(*arguments, environment=environment))
    done_before = {step.rpartition("-")[0] or step for step, done in steps.items() if done}
    assert {"fetch", "normalize", "convert-text_encoder"} <= done_before
    assert not any(step.startswith("convert-unet") for step in done_before)
    assert files_below(tmp_path / "out" / "model" / "golden") == files_below(job.bundle)


def test_a_second_run_does_no_work(run_job: Any) -> None:
    job = run_job("sd15")
    before = files_below(job.bundle)
    again = job.again(job.folder / "golden.yaml", "out")
    assert all(cached(again).values())
    assert files_below(job.bundle) == before
    said = corepress(
        "run",
        *tiny_arguments("sd15"),
        *("--recipe", job.folder / "golden.yaml"),
        *("--state", job.folder / "state", "--out", job.folder / "out"),
    )
    assert "nothing to do: every step was done before" in said.stdout


def test_another_name_or_threshold_converts_nothing_again(run_job: Any) -> None:
    job = run_job("sd15")
    recipe = write_recipe(
        job.folder, "strict", sizes=[GOLDEN_SIZE], min_psnr_db={"float16": 70, "float32": 100}
    )
    steps = cached(job.again(recipe, "strict", "--name", "renamed"))
    assert {step for step, done in steps.items() if not done} == {"publish-strict"}
    manifest = json.loads((job.folder / "strict/renamed/strict/manifest.json").read_text())
    assert manifest["recipe"]["min_psnr_db"] == {"float16": 70, "float32": 100}


def test_below_the_threshold_nothing_is_published(run_job: Any) -> None:
    job = run_job("sd15")
    recipe = write_recipe(
        job.folder, "impossible", sizes=[GOLDEN_SIZE], min_psnr_db={"float16": 300}
    )
    finished = corepress(
        "run",
        *tiny_arguments("sd15"),
        *("--json", "--recipe", recipe, "--recipe", job.folder / "golden.yaml"),
        *("--state", job.folder / "state", "--out", job.folder / "refused"),
        status=5,
    )
    assert finished.document["error"]["code"] == "verification-failed"
    message = finished.document["error"]["message"]
    for component in ("text_encoder", "unet", "vae_decoder", "vae_encoder"):
        assert f"{component}: output" in message
    assert "asks for 300" in message
    published = job.folder / "refused" / "model"  # the other build, of the same conversions
    assert [folder.name for folder in published.iterdir()] == ["golden"]


def test_what_two_checkpoints_share_is_converted_once(run_job: Any) -> None:
    job = run_job("sd15")
    source, *options = tiny_arguments("sd15")
    tensors = load_file(source)
    tensors["model.diffusion_model.out.2.bias"] += 1
    save_file(tensors, job.folder / "fine-tune.safetensors")
    recipe = write_recipe(
        job.folder,
        "shared",
        sizes=[GOLDEN_SIZE],
        components=["text_encoder", "vae_decoder", "vae_encoder"],
    )
    finished = corepress(
        *("run", job.folder / "fine-tune.safetensors", *options, "--json", "--recipe", recipe),
        *("--state", job.folder / "state", "--out", job.folder / "fine-tunes"),
    )
    steps = cached(finished)
    assert {step for step, done in steps.items() if not done} == {
        *("fetch", "normalize", "publish-shared")
    }


def test_several_sources_and_recipes(run_job: Any) -> None:
    """Every checkpoint under every recipe, and what they share is done once."""
    job = run_job("sd15")
    source, *options = tiny_arguments("sd15")
    (job.folder / "other.safetensors").write_bytes(Path(source).read_bytes())
    recipes = [
        write_recipe(job.folder, name, components=["text_encoder"], precision={"default": name})
        for name in ("float16", "float32")
    ]
    finished = corepress(
        *("run", source, job.folder / "other.safetensors", *options, "--json"),
        *("--recipe", recipes[0], "--recipe", recipes[1]),
        *("--state", job.folder / "state", "--out", job.folder / "several"),
    )
    first, second = finished.document["jobs"]
    assert [first["name"], second["name"]] == ["model", "other"]
    converted = [done["cached"] for node, done in first["actions"].items() if "convert" in node]
    assert sorted(converted) == [False, True]  # in float16 by the first run
    assert all(done["cached"] for node, done in second["actions"].items() if "convert" in node)
    for done in (first, second):
        assert done["builds"].keys() == {"float16", "float32"}
        for precision, build in done["builds"].items():
            bundle = job.folder / "several" / done["name"] / precision
            assert build["path"] == str(bundle)
            (entry,) = json.loads((bundle / "manifest.json").read_text())["components"].values()
            assert entry["precision"] == precision
            figures = text_encoder_db("sd15", "text_encoder", Package.open(bundle / entry["path"]))
            assert min(figures.values()) > threshold_db("sd15", precision)


def test_several_sizes_give_several_builds(run_job: Any) -> None:
    job = run_job("sd15")
    recipe = write_recipe(
        job.folder, "sizes", sizes=[GOLDEN_SIZE, [64, 32]], components=["vae_decoder"]
    )
    finished = job.again(recipe, "sizes")
    steps = cached(finished)
    publishing = {"publish-sizes-32x32", "publish-sizes-64x32"}
    done_now = {step for step, done in steps.items() if not done}
    assert len(done_now - publishing) == 1  # the first size's decoder is the earlier run's
    assert publishing < done_now
    (shared,) = finished.document["jobs"][0]["shared_weights"]
    assert shared["models"] == ["sizes-32x32/vae_decoder", "sizes-64x32/vae_decoder"]
    for size, shape in (("32x32", [1, 3, 32, 32]), ("64x32", [1, 3, 32, 64])):
        bundle = job.folder / "sizes" / "model" / f"sizes-{size}"
        (decoder,) = json.loads((bundle / "manifest.json").read_text())["components"].values()
        assert decoder["outputs"] == [{"name": "image", "shape": shape, "dtype": "float32"}]
        weights = bundle / decoder["path"] / "Data/com.apple.CoreML/weights/weight.bin"
        assert decoder["weights"] == {
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "bytes": weights.stat().st_size,
        }
        assert decoder["weights"]["sha256"] == shared["sha256"]


@pytest.mark.parametrize(
    ("component", "keys"),
    [
        ("text_encoder", {"sizes": "native"}),
        ("vae", {"sizes": [GOLDEN_SIZE], "components": ["vae_decoder"]}),
    ],
)
def test_a_lone_component(component: str, keys: dict[str, Any], tmp_path: Path) -> None:
    corepress("normalize", *tiny_arguments("sd15"), "--out", tmp_path / "whole")
    recipe = write_recipe(tmp_path, "lone", **keys)
    corepress(
        *("run", tmp_path / "whole" / component, "--recipe", recipe),
        *("--state", tmp_path / "state", "--out", tmp_path / "out"),
    )
    bundle = tmp_path / "out" / component / "lone"
    report = corepress("verify", bundle, "--json").document
    assert report["complete"] is False
    assert len(report["models"]) == 1


def test_a_unet_that_takes_an_image_beside_the_latent(tmp_path: Path) -> None:
    source, *options = tiny_arguments("sd15")
    tensors = load_file(source)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[name] = cat([tensors[name], tensors[name].flip(0)], 1)
    save_file(tensors, tmp_path / "edit.safetensors")
    recipe = write_recipe(tmp_path, "unet", sizes=[GOLDEN_SIZE], components=["unet"])
    corepress(
        *("run", tmp_path / "edit.safetensors", *options, "--recipe", recipe),
        *("--state", tmp_path / "state", "--out", tmp_path / "out"),
    )
    manifest = json.loads((tmp_path / "out/edit/unet/manifest.json").read_text())
    assert manifest["family"] == "sd15-pix2pix"
    assert manifest["components"]["unet"]["inputs"][0]["shape"] == [2, 8, 16, 16]


@pytest.mark.parametrize("name", FIXTURES)
def test_an_image_of_a_bundle_beside_that_of_its_checkpoint(
    run_job: Any, name: str, tmp_path: Path
) -> None:
    job = run_job(name)
    tokenizer = ("--tokenizer", small_tokenizer(tmp_path / "tokenizer"))
    images = tmp_path / "images"
    converted = cached(job.again(job.folder / "golden.yaml", str(images), *tokenizer))
    assert all(done for step, done in converted.items() if step.startswith("convert"))
    bundle = images / "model" / "golden"
    drawn = tmp_path / "both.png"
    texts = {"prompt": "a cat on a mat", "negative_prompt": "rain", "guidance_scale": 4.0}
    wish = ("--prompt", texts["prompt"], "--negative-prompt", texts["negative_prompt"])
    report = invoke(
        *("verify", bundle, "--against", *tiny_arguments(name), *tokenizer),
        *("--image", drawn, *wish, "--steps", "3", "--seed", "7", "--guidance-scale", "4"),
    )
    image = json.loads(drawn.with_suffix(".json").read_text())
    assert report["image"] == image
    assert image["psnr_db"] > 40
    assert min(image["latents_psnr_db"]) > 50

    corepress("normalize", *tiny_arguments(name), *tokenizer, "--out", tmp_path / "normalized")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "normalized").to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(7))
    made = pipeline(
        **texts, latents=noise, height=32, width=32, num_inference_steps=3, output_type="np"
    ).images[0]
    panels = numpy.asarray(Image.open(drawn)) / 255
    assert panels.shape == (32, 96, 3)
    expected, actual, difference = numpy.split(panels, 3, axis=1)
    assert abs(expected - made).max() < 0.01
    assert abs(actual - made).max() < 0.05
    assert difference.max() == 1
