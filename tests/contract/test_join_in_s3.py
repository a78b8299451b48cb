"""Shards in an S3 store are joined by the server: the weights do not pass through here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from botocore.client import BaseClient
from s3_server import new_bucket
from safetensors.torch import load_file, save_file
from torch import Tensor

from corepress.adapters.embedded.store import FolderStore
from corepress.adapters.s3.store import S3Store
from corepress.domain.artifact import Artifact, Blob
from corepress.domain.checkpoint import Component, TensorPlan, WeightFiles
from corepress.domain.source_index import IndexedFile, SourceIndex
from corepress.identify import read_header
from corepress.ports.store import Store
from corepress.runtime.files import LocalFile
from corepress.runtime.workspace import StoreWorkspace
from corepress_fetch.passage import TensorPassage
from corepress_normalize.engine import Engine
from corepress_normalize.weight_files import weight_files

MIB = 1 << 20
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
Source = tuple[dict[str, Blob], SourceIndex, Component]
WEIGHTS = WeightFiles(SHARDS, sharded=True, variant=None)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 12 MiB, of tensors whose names alternate between them."""
    folder = tmp_path_factory.mktemp("shards")
    torch.manual_seed(0)
    tensors = {f"block.{n:02}.weight": torch.randn(512, 1024).half() for n in range(24)}
    for position, shard in enumerate(SHARDS):
        part = dict(list(tensors.items())[position::2])
        save_file(part, folder / shard, metadata={"format": "pt"})
    return folder


def source_of(shards: Path, store: Store) -> Source:
    """The shards in a store, what was learned on their way, and the component they hold."""
    blobs, indexed, plans = {}, {}, []
    for shard in SHARDS:
        stored = read_header(LocalFile(shards / shard), shard)
        passage = TensorPassage(stored.values())
        data = (shards / shard).read_bytes()
        passage.feed(data)
        with store.writer() as writer:
            writer.write(data)
            blobs[shard] = writer.commit()
        indexed[shard] = IndexedFile(
            blobs[shard].digest.removeprefix("sha256:"), len(data), passage.found
        )
        plans += [TensorPlan(name, tensor, tensor.shape) for name, tensor in stored.items()]
    component = Component("unet", "diffusers", {}, tuple(plans), WEIGHTS)
    return blobs, SourceIndex(indexed), component


def joined(source: Source, store: Store, scratch: Path) -> dict[str, Blob]:
    """The weight files that normalizing makes of the shards."""
    blobs, index, component = source
    workspace = StoreWorkspace(store, scratch, lambda *_: None)
    handles = {path: workspace.open(blob) for path, blob in blobs.items()}
    engine = Engine(handles, index, workspace, precision="auto", allow_non_finite=False)
    return weight_files("diffusers", engine.write([component])["unet"], workspace)


def tensors_of(shards: Path) -> dict[str, Tensor]:
    return {name: value for shard in SHARDS for name, value in load_file(shards / shard).items()}


def test_the_server_joins_shards(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(new_bucket(), tmp_path / "cache")
    source = source_of(shards, store)
    call = BaseClient._make_api_call
    payloads: list[int] = []

    def watched(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        payloads.append(len(parameters.get("Body", b"")))
        answer = call(client, operation, parameters)
        payloads.append(answer["ContentLength"] if operation == "GetObject" else 0)
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(BaseClient, "_make_api_call", watched)
        ((name, blob),) = joined(source, store, tmp_path).items()
    assert name == "diffusion_pytorch_model.safetensors"
    opened = load_file(store.open(blob).local_path())
    assert opened.keys() == tensors_of(shards).keys()
    assert all(torch.equal(opened[key], value) for key, value in tensors_of(shards).items())
    # the head of the first shard comes, and goes again behind the header, to fill a part
    assert sum(payloads) < 11 * MIB


def test_the_order_of_tensors_is_no_change_of_content(shards: Path, tmp_path: Path) -> None:
    """A store on disk writes the canonical file; both count as the same component."""
    s3, folder = S3Store(new_bucket(), tmp_path / "cache"), FolderStore(tmp_path / "store")
    in_s3 = joined(source_of(shards, s3), s3, tmp_path)
    on_disk = joined(source_of(shards, folder), folder, tmp_path)
    (arranged,), (canonical,) = in_s3.values(), on_disk.values()
    assert arranged.digest != canonical.digest
    assert Artifact(in_s3).identity == Artifact(on_disk).identity


def test_a_second_time_nothing_is_joined(shards: Path, tmp_path: Path) -> None:
    store = S3Store(new_bucket(), tmp_path / "cache")
    source = source_of(shards, store)
    assert joined(source, store, tmp_path) == joined(source, store, tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded either
