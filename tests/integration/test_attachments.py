"""ControlNets and a refiner beside a base model: in its bundle, and as the original code gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_support import corepress, invoke, tiny_arguments, write_recipe
from golden_figures import FLOAT16_DB, ROUNDED_DB, unet_db
from normalize_support import normalize_tiny
from normalized import golden

from corepress.domain.figures import outputs_below
from corepress.evaluate import Package, evaluate, psnr_db

GOLDEN = {"sd15": [16, 16], "sdxl-base": [32, 32]}
"""The size of the golden outputs of a ControlNet and of a refiner, in the base model's pixels."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normalized folders, whose configurations tell the tiny sizes."""
    folder = tmp_path_factory.mktemp("attachments")
    for name in ("controlnet", "sdxl-refiner"):
        normalize_tiny(name, folder / name)
    return folder


def run(name: str, folder: Path, *attached: str | Path, **recipe: Any) -> Path:
    path = write_recipe(folder, "with", sizes=[GOLDEN[name]], **recipe)
    where = ("--state", folder / "state", "--out", folder / "out")
    corepress("run", *tiny_arguments(name), "--recipe", path, *where, *attached)
    return folder / "out" / "model" / "with"


def test_a_controlnet(folders: Path, tmp_path: Path) -> None:
    attached = ("--controlnet", folders / "controlnet")
    bundle = run("sd15", tmp_path, *attached, components=["controlled_unet"])
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [*manifest["components"]] == ["controlled_unet", "controlnet/Controlnet"]
    packages = {
        name: Package.open(bundle / model["path"]) for name, model in manifest["components"].items()
    }
    assert (bundle / "Resources/controlnet/Controlnet.mlpackage").is_dir()
    entry = manifest["attachments"]["controlnet/Controlnet"]
    assert (entry["family"], entry["uri"]) == ("controlnet-sd15", "file:controlnet")
    assert "| controlnet/Controlnet | file:controlnet, sha256" in (bundle / "README.md").read_text()

    expected = golden("controlnet")
    for row, timestep in enumerate(expected["unet.t"]):
        inputs = {
            "sample": expected["unet.x"],
            "timestep": timestep.float(),
            "encoder_hidden_states": expected["unet.context"].transpose(1, 2)[:, :, None],
        }
        hint = {"controlnet_cond": expected["control.hint"]}
        residuals = evaluate(packages["controlnet/Controlnet"], inputs | hint)
        for index, residual in enumerate(residuals.values()):
            assert psnr_db(expected[f"control.out.{index:02}"][row], residual) > FLOAT16_DB
        noise = evaluate(packages["controlled_unet"], inputs | residuals)["noise_pred"]
        assert psnr_db(expected["control.unet_out"][row], noise) > ROUNDED_DB

    verify = ("verify", bundle, "--against", *tiny_arguments("sd15"))
    models = invoke(*verify, *attached)["models"]
    assert all("figures" in model["checked"] for model in models.values())
    assert all(model["same_weights"] for model in models.values())
    without = invoke(*verify)["models"]
    assert without["controlnet/Controlnet"]["checked"] == ["checksums", "interface"]
    assert "figures" in without["controlled_unet"]["checked"]


def test_a_refiner(folders: Path, tmp_path: Path) -> None:
    attached = ("--refiner", folders / "sdxl-refiner")
    bundle = run("sdxl-base", tmp_path, *attached, components=["unet_refiner"])
    (model,) = (bundle / "Resources").glob("*.mlpackage")
    assert model.name == "UnetRefiner.mlpackage"
    package = Package.open(model)
    figures = unet_db("sdxl-refiner", package)
    assert min(figures.values()) > FLOAT16_DB, figures
    report = invoke("verify", package.path, "--against", folders / "sdxl-refiner")
    (verified,) = report["models"].values()
    assert outputs_below(verified["psnr_db"], FLOAT16_DB) == {}


@pytest.mark.parametrize(
    ("name", "option", "other", "code"),
    [
        ("sdxl-base", "--controlnet", "controlnet", "incompatible-controlnet"),
        ("sd15", "--controlnet", "sdxl-refiner", "incompatible-controlnet"),
        ("sd15", "--refiner", "sdxl-refiner", "incompatible-refiner"),
        ("sdxl-base", "--refiner", "controlnet", "incompatible-refiner"),
    ],
)
def test_misfits_are_refused_before_anything_is_fetched(
    name: str, option: str, other: str, code: str, folders: Path, tmp_path: Path
) -> None:
    arguments = (*tiny_arguments(name), option, folders / other)
    where = ("--recipe", "original", "--state", tmp_path / "state", "--out", tmp_path / "out")
    assert invoke("run", *arguments, *where, status=3)["error"]["code"] == code
    assert list((tmp_path / "state").rglob("blobs/*")) == []
    report = invoke("inspect", *arguments)
    assert [problem["code"] for problem in report["problems"]] == [code]
    (attachment,) = report["attachments"].values()
    assert attachment["fits"] is False


def test_two_controlnets_of_one_name_are_refused(folders: Path, tmp_path: Path) -> None:
    twice = ("--controlnet", folders / "controlnet") * 2
    where = ("--recipe", "original", "--state", tmp_path / "state", "--out", tmp_path / "out")
    error = invoke("run", *tiny_arguments("sd15"), *twice, *where, status=3)["error"]
    assert error["code"] == "invalid-request"
    assert "controlnet/Controlnet" in error["message"]


def test_a_controlnet_that_cannot_be_read_fails_the_job(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"<!DOCTYPE html><html></html>")
    where = ("--recipe", "original", "--state", tmp_path / "state", "--out", tmp_path / "out")
    arguments = ("run", *tiny_arguments("sd15"), "--controlnet", broken, *where)
    document = invoke(*arguments, status=3)
    (job,) = document["jobs"]
    assert list(job["errors"]) == ["fetch-controlnet-0"]
    assert document["error"]["code"] == "corrupt-checkpoint"
    assert job["builds"] == {}
    again = corepress(*arguments, status=3)
    assert "nothing to do" not in again.stdout


def test_inspect_counts_what_is_attached(folders: Path) -> None:
    plain = invoke("inspect", *tiny_arguments("sd15"))
    more = invoke("inspect", *tiny_arguments("sd15"), "--controlnet", folders / "controlnet")
    assert more["attachments"] == {
        "controlnet-0": {
            "source": str(folders / "controlnet"),
            "fits": True,
            "family": "controlnet-sd15",
        }
    }
    added = more["produces"]["run"].keys() - plain["produces"]["run"].keys()
    assert {name.partition(".")[0] for name in added} == {"ControlledUnet", "controlnet/Controlnet"}
    assert more["needs"]["disk_bytes"] > plain["needs"]["disk_bytes"]
    assert more["needs"]["by_command"]["normalize"] == plain["needs"]["by_command"]["normalize"]
