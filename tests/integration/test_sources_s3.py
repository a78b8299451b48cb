"""Sources in a bucket of a real S3 server."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import corepress, files_below, invoke, tiny_arguments, write_recipe
from normalize_support import checkpoint, tiny_options

from corepress.adapters.embedded.store import FolderStore
from corepress.adapters.s3.client import S3Location, open_client
from corepress.adapters.s3.store import S3Store
from corepress.domain.errors import InvalidRequest, SourceUnavailable
from corepress.domain.stage import Outputs, Task
from corepress.ports.store import Store
from corepress.runtime.workspace import StoreWorkspace
from corepress_fetch import http_retry
from corepress_fetch.s3_source import S3File, open_objects
from corepress_fetch.source import resolve
from corepress_fetch.stage import STAGE

sys.path.append(str(Path(__file__).parents[1] / "contract"))

from s3_server import endpoint, new_bucket

DATA = checkpoint("sd15").read_bytes()
OPTIONS = tiny_arguments("sd15")[1:]
MIB = 1 << 20


class Counted:
    """What passed between a client and its server."""

    def __init__(self, client: Any) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        client.meta.events.register("before-send.s3", self._sent)
        client.meta.events.register("after-call.s3.GetObject", self._received)

    def _sent(self, request: Any, **_: Any) -> None:
        self.sent_bytes += int(request.headers.get("Content-Length", 0))

    def _received(self, parsed: dict[str, Any], **_: Any) -> None:
        self.received_bytes += parsed.get("ContentLength", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a tiny checkpoint."""
    out = tmp_path_factory.mktemp("s3") / "folder"
    invoke("normalize", *tiny_arguments("sd15"), "--out", out)
    (out / "corepress.json").unlink()
    return out


@pytest.fixture
def bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Location]:
    """A bucket with a single file, and a folder in a folder with much beside it."""
    location = new_bucket()
    monkeypatch.setattr(http_retry, "_wait_s", lambda _: 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint())
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    put(location, "single/My Model.safetensors", DATA)
    put(location, "models/tiny/", b"")
    put(location, "models/tiny/notes.txt", b"notes")
    put(location, "models/tiny/deep/er/file.json", b"{}")
    put(location, "models/tiny-2/model_index.json", b"another one")
    for path, data in files_below(folder).items():
        put(location, f"models/tiny/{path}", data)
    return location


def put(location: S3Location, key: str, data: bytes) -> None:
    open_client(location).put_object(Bucket=location.bucket, Key=key, Body=data)


def fetch(uri: str, store: Store, scratch: Path) -> Outputs:
    task = Task("fetch", {"source": resolve(uri), "options": tiny_options("sd15").document()})
    return STAGE.run(task, StoreWorkspace(store, scratch, lambda *_: None))


def test_a_prefix_is_a_folder(bucket: S3Location, folder: Path, tmp_path: Path) -> None:
    uri = f"s3://{bucket.bucket}/models/tiny"
    found, local = invoke("inspect", uri), invoke("inspect", folder)
    for key in ("layout", "family", "components", "produces"):
        assert found[key] == local[key], key
    needed_bytes = sum(len(data) for data in files_below(folder).values())
    assert found["needs"]["download_bytes"] == needed_bytes
    manifest = invoke("normalize", f"{uri}/", "--out", tmp_path / "out")
    assert manifest["source"]["files"].keys() == files_below(folder).keys()
    expected = invoke("normalize", folder, "--out", tmp_path / "local")
    assert manifest["files"] == expected["files"]
    assert manifest["source"]["uri"] == f"{uri}/"


def test_reading_headers_takes_little(bucket: S3Location) -> None:
    (file,) = open_objects(f"s3://{bucket.bucket}/single/My Model.safetensors").values()
    assert file.read(8, 100) == DATA[8:108]
    assert isinstance(file, S3File)
    counted = Counted(file._bucket.client)
    file.read(0, 50_000)
    assert counted.received_bytes == 50_000


def test_a_single_object(bucket: S3Location, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "small", sizes=[[32, 32]], components=["text_encoder"])
    uri = f"s3://{bucket.bucket}/single/My Model.safetensors"
    places = ("--out", tmp_path / "out", "--state", tmp_path / "state")
    (job,) = corepress("run", uri, *OPTIONS, "--recipe", recipe, *places, "--json").document["jobs"]
    assert job["name"] == "my-model"
    manifest = json.loads((tmp_path / "out/my-model/small/manifest.json").read_text())
    assert manifest["source"] == {"uri": uri, "sha256": hashlib.sha256(DATA).hexdigest()}


def test_a_store_on_the_same_server_copies_it(bucket: S3Location, tmp_path: Path) -> None:
    """What is fetched passes here to be hashed, and not back."""
    store = S3Store(bucket, tmp_path / "cache")
    counted = Counted(store._client)
    uri = f"s3://{bucket.bucket}/single/My Model.safetensors"
    in_bucket = fetch(uri, store, tmp_path)
    digest = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    (blob,) = in_bucket.artifacts["source"].files.values()
    assert blob.digest == digest
    assert store.open(blob).read(0, blob.size_bytes) == DATA
    assert fetch(uri, FolderStore(tmp_path / "store"), tmp_path).artifacts == in_bucket.artifacts
    assert counted.sent_bytes < 5 * MIB < len(DATA) + MIB or len(DATA) < 5 * MIB


def test_a_large_object(bucket: S3Location, tmp_path: Path) -> None:
    """Over several connections, in order; copied by the server where there is one."""
    data = os.urandom(37 * MIB + 11)
    put(bucket, "large.bin", data)
    (file,) = open_objects(f"s3://{bucket.bucket}/large.bin").values()
    for start in (0, 10 * MIB + 3, len(data)):
        pieces: list[bytes] = []
        file.download(pieces.append, start)
        assert b"".join(pieces) == data[start:]
    store = S3Store(bucket, tmp_path / "cache")
    counted = Counted(store._client)
    assert store.can_copy(file.stored)
    with store.writer() as writer:
        writer.copy_range(file.stored, 0, len(data))
        put(bucket, "large.bin", data[::-1])
        with pytest.raises(SourceUnavailable, match="changed"):
            file.read(0, 10)
    assert counted.sent_bytes < MIB


def test_an_object_that_is_replaced(bucket: S3Location, tmp_path: Path) -> None:
    uri = f"s3://{bucket.bucket}/single/My Model.safetensors"
    resolved = resolve(uri)
    put(bucket, "single/My Model.safetensors", DATA + b"\0")
    assert resolve(uri) != resolved
    task = Task("fetch", {"source": resolved, "options": tiny_options("sd15").document()})
    workspace = StoreWorkspace(FolderStore(tmp_path / "store"), tmp_path, lambda *_: None)
    with pytest.raises(InvalidRequest, match="changed"):
        STAGE.run(task, workspace)


@pytest.mark.parametrize(
    ("source", "code", "status"),
    [
        ("s3://BUCKET/absent.safetensors", "source-not-found", 3),
        ("s3://BUCKET/models/tin", "source-not-found", 3),
        ("s3://corepress-absent/model.safetensors", "source-not-found", 3),
        ("s3://corepress-absent", "source-not-found", 3),
        ("s3://", "invalid-request", 3),
        ("s3://No_Bucket!/key", "invalid-request", 3),
    ],
)
def test_what_is_no_source(
    bucket: S3Location, source: str, code: str, status: int, tmp_path: Path
) -> None:
    uri = source.replace("BUCKET", bucket.bucket)
    for command in (("inspect", uri), ("normalize", uri, "--out", tmp_path / "out")):
        error = invoke(*command, status=status)["error"]
        assert error["code"] == code
        assert error["hint"]
    assert not (tmp_path / "out").exists()


def test_a_key_that_leads_out_of_its_folder(bucket: S3Location) -> None:
    put(bucket, "evil/../../model.safetensors", DATA)
    error = invoke("inspect", f"s3://{bucket.bucket}/evil", status=3)["error"]
    assert error["code"] == "unsafe-path"


@pytest.mark.parametrize("key", ["", "wrong"])
def test_refused_credentials(
    bucket: S3Location, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if key:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    else:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for path in ("single/My Model.safetensors", "models/tiny/"):
        error = invoke("inspect", f"s3://{bucket.bucket}/{path}", status=4)["error"]
        assert error["code"] == "access-denied"
        assert "credentials" in error["hint"] + error["message"]


@pytest.mark.usefixtures("bucket")
def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    error = invoke("inspect", "s3://bucket/model.safetensors", status=4)["error"]
    assert error["code"] == "source-unavailable"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    error = invoke("inspect", "s3://bucket/model.safetensors", status=3)["error"]
    assert error["code"] == "invalid-request"
