"""Fifty fine-tunes with one VAE and one text encoder, through a real broker and a real store."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rabbitmq_server import bus_url, set_up_anew
from s3_server import new_bucket
from scripted_fleet import CLOCK, Here, Silence

from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.topology import topology
from corepress.adapters.s3.inventory import S3Inventory
from corepress.adapters.s3.store import S3Store
from corepress.domain.artifact import Artifact
from corepress.domain.composition import CHECKPOINT
from corepress.domain.recipe import Recipe
from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress.runtime import jobs
from corepress.runtime.worker import Worker
from corepress_compile.convert import STAGE as CONVERT
from corepress_fetch.source import resolve
from corepress_fetch.stage import STAGE as FETCH
from corepress_normalize.stage import STAGE as NORMALIZE

from fine_tunes import request_for, write_fine_tune  # isort: skip  (found by scripted_fleet)

FINE_TUNES = 50
SHARED = ("text_encoder", "vae_encoder")
COMPONENTS = ("unet", "vae", "text_encoder")
RECIPE = Recipe("all", components=["unet", *SHARED])


def convert_all_but_unets(task: Task, workspace: Workspace) -> Outputs:
    """What converts, but for UNets: fifty of them take minutes, and here it is not their graphs
    that matter."""
    if task.parameters["component"] != "unet":
        return CONVERT.run(task, workspace)
    path = workspace.scratch / "weight.bin"
    path.write_text(str(task.inputs["component"].identity))
    return Outputs({"package": Artifact({"Unet.mlpackage/weight.bin": workspace.keep(path)})})


STAGES: dict[str, Stage] = {
    "fetch": FETCH,
    "normalize": NORMALIZE,
    "convert": replace(CONVERT, run=convert_all_but_unets),
}


@pytest.fixture
def bus() -> Any:
    link = Link(bus_url(), "tests")
    set_up_anew(link, topology((*STAGES, "publish"), delays_s=(1,)))
    link.close()
    bus = RabbitBus(bus_url())
    yield bus
    bus.close()


def test_what_fine_tunes_share_is_converted_once_and_stored_once(
    bus: RabbitBus, tmp_path: Path
) -> None:
    location = new_bucket("fleet/")
    store = S3Store(location, tmp_path / "cache")
    worker = Worker(store, bus, STAGES, Here(store, STAGES), CLOCK, Silence(), owner="worker")
    sources = [write_fine_tune(tmp_path, number) for number in range(FINE_TUNES)]
    for path in sources:
        request = request_for(path, RECIPE)
        jobs.submit(store, bus, path.stem, request, {CHECKPOINT: resolve(str(path))})
    while worker.step(0.5):
        pass
    assert list(bus.dead_letters()) == []

    steps = [jobs.steps(store, path.stem) for path in sources]
    assert {tuple(sorted(node.partition("-")[0] for node in each)) for each in steps} == {
        ("convert",) * len(RECIPE.components) + ("fetch", "normalize")
    }
    actions = [json.loads(store.get(key)) for key in store.keys("actions/")]
    assert Counter(action["stage"] for action in actions) == {
        "fetch": FINE_TUNES,
        "normalize": FINE_TUNES,
        "convert": FINE_TUNES + len(SHARED),
    }
    folders = [
        Outputs.from_document(action["outputs"]).artifacts
        for action in actions
        if action["stage"] == "normalize"
    ]
    kinds = {name: len({each[name].identity for each in folders}) for name in COMPONENTS}
    assert kinds == {"unet": FINE_TUNES, "vae": 1, "text_encoder": 1}
    stored = {blob.name: blob.size_bytes for blob in S3Inventory(location).blobs()}
    weights = {
        name: {
            blob.digest
            for each in folders
            for path, blob in each[name].files.items()
            if path.endswith(".safetensors")
        }
        for name in COMPONENTS
    }
    assert {name: len(digests) for name, digests in weights.items()} == kinds
    for digest in weights["vae"] | weights["text_encoder"]:
        # nothing else in the store has its size, so that it is there once
        assert [name for name, size in stored.items() if size == stored[digest]] == [digest]
