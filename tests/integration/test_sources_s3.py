"""Sources in a bucket of a real S3 server."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import files_below, invoke, tiny_arguments
from normalize_support import tiny_options, write_padded

from corepress.adapters.embedded.store import FolderStore
from corepress.adapters.s3.client import S3Location, open_client
from corepress.adapters.s3.store import S3Store
from corepress.domain.artifact import Blob, sha256_digest
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

SINGLE = "single/My Model.safetensors"
WHAT_IT_WAS = sha256_digest(b"what it was")
MIB = 1 << 20


class Bucket:
    """A bucket, to put objects into."""

    def __init__(self, location: S3Location) -> None:
        self.location = location
        self._client = open_client(location)

    def uri(self, key: str) -> str:
        return f"s3://{self.location.bucket}/{key}"

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.location.bucket, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        answer = self._client.get_object(Bucket=self.location.bucket, Key=key)
        data: bytes = answer["Body"].read()
        return data


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


@pytest.fixture(scope="module")
def contents(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """A bucket with a single file, and a folder in a folder with much beside it."""
    bucket = Bucket(new_bucket())
    bucket.put(SINGLE, write_padded(tmp_path_factory.mktemp("padded") / "model.safetensors"))
    bucket.put("models/tiny/", b"")
    bucket.put("models/tiny/notes.txt", b"notes")
    bucket.put("models/tiny/deep/er/file.json", b"{}")
    bucket.put("models/tiny-2/model_index.json", b"another one")
    for path, data in files_below(folder).items():
        bucket.put(f"models/tiny/{path}", data)
    return bucket


@pytest.fixture
def bucket(contents: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(http_retry, "_wait_s", lambda _: 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint())
    return contents


def fetch(uri: str, store: Store, scratch: Path) -> Outputs:
    task = Task("fetch", {"source": resolve(uri), "options": tiny_options("sd15").document()})
    return STAGE.run(task, StoreWorkspace(store, scratch, lambda *_: None))


def test_a_prefix_is_a_folder(bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    uri = bucket.uri("models/tiny")
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


def test_reading_headers_takes_little(bucket: Bucket) -> None:
    (file,) = open_objects(bucket.uri(SINGLE)).values()
    counted = Counted(file._bucket.client)
    file.read(0, 50_000)
    assert counted.received_bytes == 50_000


def test_a_store_on_the_same_server_copies_it(bucket: Bucket, tmp_path: Path) -> None:
    """What is fetched passes here to be hashed, and not back."""
    data = bucket.get(SINGLE)
    store = S3Store(bucket.location, tmp_path / "cache")
    counted = Counted(store._client)
    in_bucket = fetch(bucket.uri(SINGLE), store, tmp_path)
    (blob,) = in_bucket.artifacts["source"].files.values()
    assert blob.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert store.open(blob).read(0, blob.size_bytes) == data
    assert counted.sent_bytes < MIB
    in_folder = fetch(bucket.uri(SINGLE), FolderStore(tmp_path / "store"), tmp_path)
    assert in_folder.artifacts == in_bucket.artifacts


def test_a_large_object(bucket: Bucket) -> None:
    """Over several connections, in order, from anywhere."""
    data = bucket.get(SINGLE)
    (file,) = open_objects(bucket.uri(SINGLE)).values()
    for start in (0, 10 * MIB + 3, len(data)):
        pieces: list[bytes] = []
        file.download(pieces.append, start)
        assert b"".join(pieces) == data[start:]


def test_an_object_that_is_replaced(bucket: Bucket, tmp_path: Path) -> None:
    """At any moment: before it is fetched, while it is read, and before it is copied."""
    data = bucket.get(SINGLE)
    bucket.put("replaced.safetensors", data)
    resolved = resolve(bucket.uri("replaced.safetensors"))
    (file,) = open_objects(bucket.uri("replaced.safetensors")).values()
    store = S3Store(bucket.location, tmp_path / "cache")
    assert file.read(0, 10) == data[:10]
    assert store.can_copy(file.stored)
    bucket.put("replaced.safetensors", data[:-1] + b"\0")
    task = Task("fetch", {"source": resolved, "options": tiny_options("sd15").document()})
    workspace = StoreWorkspace(store, tmp_path, lambda *_: None)
    with pytest.raises(InvalidRequest, match="changed"):
        STAGE.run(task, workspace)
    with pytest.raises(SourceUnavailable, match="changed"):
        file.read(0, 10)
    with pytest.raises(SourceUnavailable, match="replaced"):
        copy(file, store)
    assert not store.has(Blob(WHAT_IT_WAS, file.size_bytes))


def copy(file: S3File, store: S3Store) -> None:
    with store.writer(WHAT_IT_WAS) as writer:
        writer.copy_range(file.stored, 0, file.size_bytes)
        writer.commit(WHAT_IT_WAS)


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
    bucket: Bucket, source: str, code: str, status: int, tmp_path: Path
) -> None:
    uri = source.replace("BUCKET", bucket.location.bucket)
    for command in (("inspect", uri), ("normalize", uri, "--out", tmp_path / "out")):
        error = invoke(*command, status=status)["error"]
        assert error["code"] == code
        assert error["hint"]
    assert not (tmp_path / "out").exists()


def test_a_key_that_leads_out_of_its_folder(bucket: Bucket) -> None:
    bucket.put("evil/../../model.safetensors", b"weights")
    error = invoke("inspect", bucket.uri("evil"), status=3)["error"]
    assert error["code"] == "unsafe-path"


@pytest.mark.parametrize("key", ["", "wrong"])
def test_refused_credentials(
    bucket: Bucket, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if key:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    else:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for path in (SINGLE, "models/tiny/"):
        error = invoke("inspect", bucket.uri(path), status=4)["error"]
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
