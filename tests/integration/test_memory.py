"""What converting would take more memory for than there is ends with a code, not with a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import invoke, tiny_arguments, write_recipe
from normalize_support import normalize_tiny

from corepress.adapters.embedded.store import FolderStore
from corepress.domain.artifact import Artifact
from corepress.domain.errors import OutOfMemory
from corepress.domain.stage import Task
from corepress.runtime.workspace import StoreWorkspace
from corepress_compile.convert import STAGE
from corepress_compile.forecast import component_in, peak_memory_bytes

HUGE = [16384, 16384]


def test_a_run_is_refused_before_it_begins(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "huge", sizes=[HUGE], components=["text_encoder", "unet"])
    where = ("--recipe", recipe, "--state", tmp_path / "state", "--out", tmp_path / "out")
    error = invoke("run", *tiny_arguments("sd15"), *where, status=4)["error"]
    assert error["code"] == "out-of-memory"
    assert error["message"].startswith("convert-unet-16384x16384")
    assert list((tmp_path / "state").rglob("blobs/*")) == []


def test_every_model_has_a_budget() -> None:
    needs = invoke("inspect", *tiny_arguments("sd15"))["needs"]
    budgets = needs["memory_by_model"]
    assert {name.partition(".")[0] for name in budgets} == {
        *("TextEncoder", "Unet", "VAEDecoder", "VAEEncoder")
    }
    assert max(budgets.values()) == needs["memory_bytes"]


def test_the_stage_refuses_for_itself(tmp_path: Path) -> None:
    normalize_tiny("sd15", tmp_path / "model")
    store = FolderStore(tmp_path / "store")
    workspace = StoreWorkspace(store, tmp_path / "scratch", lambda *_: None)
    folder = tmp_path / "model" / "unet"
    component = Artifact({path.name: workspace.keep(path) for path in sorted(folder.iterdir())})
    parameters = {
        "component": "unet",
        "family": "sd15",
        "precision": "float16",
        "deployment_target": "iOS17",
        "size": HUGE,
        "vae_scale_factor": 2,
        "batch": 2,
    }
    with pytest.raises(OutOfMemory, match="converting unet needs"):
        STAGE.run(Task("convert", parameters, {"component": component}), workspace)
    by_folder = component_in(tmp_path / "scratch" / "component")
    small = {**parameters, "size": [128, 128]}
    told = invoke("inspect", *tiny_arguments("sd15"))["needs"]["memory_by_model"]
    assert peak_memory_bytes(small, by_folder) == told["Unet.mlpackage (128x128, float16)"]
