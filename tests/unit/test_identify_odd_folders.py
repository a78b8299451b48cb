"""Folders with traces of downloads that did not finish, and of models that only look like ours."""

from __future__ import annotations

import pytest
from folder_support import PLAIN, Folder, as_json, folder_of, renamed, sharded, weight_path
from identify_support import MemoryFile, tiny_file, tiny_options

from corepress.domain.checkpoint import Identification, IdentifyOptions
from corepress.domain.errors import IncompleteCheckpoint, MissingShard, UnsupportedCheckpoint
from corepress.identify import identify


@pytest.fixture
def folder() -> Folder:
    return folder_of("sd15")


def of(folder: Folder) -> Identification:
    return identify(folder, IdentifyOptions())


@pytest.mark.parametrize("ending", ["part", "incomplete", "crdownload"])
def test_a_file_that_is_partly_there_is_named(folder: Folder, ending: str):
    path = weight_path("unet")
    folder[f"{path}.{ending}"] = folder.pop(path)
    with pytest.raises(IncompleteCheckpoint, match="not finished") as caught:
        of(folder)
    assert f"{path}.{ending}" in caught.value.message
    folder, _ = sharded(folder | {path: folder[f"{path}.{ending}"]}, PLAIN)
    last = "text_encoder/model-00002-of-00002.safetensors"
    folder[f"{last}.{ending}"] = folder.pop(last)
    with pytest.raises(MissingShard, match="00002-of-00002"):
        of(folder)


def test_a_file_of_full_size_that_is_still_being_filled(folder: Folder):
    folder[f"{weight_path('vae')}.aria2"] = MemoryFile(b"\0\1")
    with pytest.raises(IncompleteCheckpoint, match="did not finish"):
        of(folder)
    single = {"m.safetensors": tiny_file("sd15"), "m.safetensors.aria2": MemoryFile(b"\0\1")}
    with pytest.raises(IncompleteCheckpoint, match="did not finish"):
        identify(single, tiny_options("sd15"))


def test_a_pipeline_with_a_unet_like_ours_and_no_text_encoder(folder: Folder):
    index = {
        "_class_name": "LDMTextToImagePipeline",
        "bert": ["latent_diffusion", "LDMBertModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    with pytest.raises(UnsupportedCheckpoint, match=r"LDMTextToImagePipeline.*nearest to sd15"):
        of({**folder, "model_index.json": as_json(index)})


def test_a_folder_whose_scheduler_or_weights_tell_another_kind(folder: Folder):
    scheduler = as_json({"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"})
    with pytest.raises(UnsupportedCheckpoint, match="EDM"):
        of({**folder, "scheduler/scheduler_config.json": scheduler})
    path = weight_path("unet")
    scaled = renamed(folder[path].data, "conv_in.bias", "conv_in.scale_weight")
    with pytest.raises(UnsupportedCheckpoint, match="scaled float8"):
        of({**folder, path: MemoryFile(scaled)})
