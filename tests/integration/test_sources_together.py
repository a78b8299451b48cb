"""A bundle of sources of every kind, and what its manifest says of them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from civitai_support import Civitai, Entry, civitai_of
from cli_support import corepress, files_below, invoke, tiny_arguments, write_recipe
from hub_support import Hub, hub_of, repository
from normalize_support import checkpoint
from safetensors.torch import save

sys.path.append(str(Path(__file__).parents[1] / "contract"))

from s3_server import endpoint, new_bucket

from corepress.adapters.s3.client import open_client

DATA = checkpoint("sd15").read_bytes()
MODULE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_v"
OPTIONS = tiny_arguments("sd15")[1:]


@dataclass(frozen=True)
class Sources:
    """Addresses: as a user gives them, and as a manifest shows them."""

    checkpoint: str
    vae: str
    pinned_vae: str
    lora: str
    pinned_lora: str

    @property
    def arguments(self) -> tuple[str, ...]:
        return (self.checkpoint, *OPTIONS, "--vae", self.vae, "--lora", f"{self.lora}:-0.5")


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sources]:
    bucket = new_bucket().bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint())
    open_client(new_bucket()).put_object(Bucket=bucket, Key="a/Model.safetensors", Body=DATA)
    invoke("normalize", *tiny_arguments("sd15"), "--out", tmp_path / "folder")
    vae = repository(files_below(tmp_path / "folder" / "vae"))
    up, down = torch.ones(64, 2), torch.ones(2, 64)
    lora = save({f"{MODULE}.lora_B.weight": up, f"{MODULE}.lora_A.weight": down})
    with ExitStack() as servers:
        hub = servers.enter_context(hub_of(Hub({"someone/vae": vae})))
        site = Civitai({8: [Entry("Style.safetensors", lora, primary=True)]})
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("CIVITAI_ENDPOINT", servers.enter_context(civitai_of(site)).address)
        yield Sources(
            checkpoint=f"s3://{bucket}/a/Model.safetensors",
            vae="hf://someone/vae@main",
            pinned_vae=f"hf://someone/vae@{vae.branches['main']}",
            lora="civitai://8",
            pinned_lora="civitai://8/Style.safetensors",
        )


def test_a_bundle_of_sources_of_every_kind(sources: Sources, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "small", sizes=[[32, 32]], components=["vae_decoder"])
    places = ("--out", tmp_path / "out", "--state", tmp_path / "state")
    run = ("run", *sources.arguments, "--recipe", recipe, *places, "--json")
    (job,) = corepress(*run).document["jobs"]
    assert job["name"] == "model"
    bundle = tmp_path / "out" / "model" / "small"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["source"] == {
        "uri": sources.checkpoint,
        "sha256": hashlib.sha256(DATA).hexdigest(),
    }
    assert manifest["composition"]["vae"]["uri"] == sources.pinned_vae
    (lora,) = manifest["composition"]["loras"]
    assert (lora["uri"], lora["scale"]) == (sources.pinned_lora, -0.5)

    (again,) = invoke(*run[:-1])["jobs"]
    assert all(action["cached"] for action in again["actions"].values())

    verified = invoke("verify", bundle, "--against", *sources.arguments)
    assert verified["against"] == sources.checkpoint
    assert verified["models"]["vae_decoder"]["same_weights"] is True
