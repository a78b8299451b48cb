"""Downloads from a real server on this machine, which breaks in every way that servers do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from http_support import Server, serving
from normalize_support import checkpoint, tiny_options
from safetensors.numpy import save_file
from safetensors.torch import load_file

from corepress.adapters.embedded.store import FolderStore
from corepress.domain.errors import (
    AccessDenied,
    CorepressError,
    CorruptCheckpoint,
    InvalidRequest,
    SourceNotFound,
    SourceUnavailable,
    UnsafePickle,
    UnsupportedCheckpoint,
)
from corepress.domain.job import CheckpointOptions
from corepress.domain.source_index import SourceIndex
from corepress.domain.stage import Outputs, Task
from corepress.identify import identify
from corepress.runtime.files import source_files
from corepress.runtime.workspace import StoreWorkspace
from corepress_fetch import http_retry
from corepress_fetch.http_file import HttpFile
from corepress_fetch.source import resolve
from corepress_fetch.stage import STAGE

DATA = checkpoint("sd15").read_bytes()
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http_retry, "_wait_s", lambda _: 0.01)
    with serving(Server(data=DATA)) as state:
        yield state


@pytest.fixture
def workspace(tmp_path: Path) -> StoreWorkspace:
    return StoreWorkspace(FolderStore(tmp_path / "store"), tmp_path, lambda *_: None)


def fetch(uri: str, workspace: StoreWorkspace, options: CheckpointOptions | None = None) -> Outputs:
    document = (options or tiny_options("sd15")).document()
    task = Task("fetch", {"source": resolve(uri), "options": document})
    return STAGE.run(task, workspace)


def downloaded(file: HttpFile) -> bytes:
    pieces: list[bytes] = []
    file.download(pieces.append)
    return b"".join(pieces)


def test_a_download_and_what_is_learned_on_the_way(
    server: Server, workspace: StoreWorkspace, tmp_path: Path
) -> None:
    outputs = fetch(server.uri, workspace)
    blob = outputs.artifacts["source"].files["tiny.safetensors"]
    assert blob.digest == f"sha256:{SHA256}"
    assert workspace.open(blob).read(0, len(DATA)) == DATA
    index = workspace.open(outputs.artifacts["index"].files["tensors.json"])
    over_http = SourceIndex.from_document(json.loads(index.read(0, index.size_bytes)))
    (tmp_path / "tiny.safetensors").write_bytes(DATA)
    local = fetch(str(tmp_path / "tiny.safetensors"), workspace)
    assert local.artifacts == outputs.artifacts
    found = identify(source_files(checkpoint("sd15")), tiny_options("sd15").for_identify)
    planned = {plan.source.name for part in found.components.values() for plan in part.tensors}
    assert over_http.files["tiny.safetensors"].tensors.keys() == planned


def test_a_further_source_on_a_server(
    server: Server, workspace: StoreWorkspace, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(DATA)
    sources = {
        "source": resolve(str(tmp_path / "model.safetensors")),
        "vae": resolve(server.uri),  # whose VAE alone is taken
    }
    task = Task("fetch", {**sources, "options": tiny_options("sd15").document()})
    artifact = STAGE.run(task, workspace).artifacts["vae"]
    assert {path: blob.digest for path, blob in artifact.files.items()} == {
        "vae.safetensors": f"sha256:{SHA256}"
    }


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', None])
def test_cut_connections_are_resumed_where_they_broke_off(server: Server, etag: str | None) -> None:
    server.etag = etag
    server.cuts = [1_000_000, 700_000, 1, 0]
    assert downloaded(HttpFile(server.uri)) == DATA
    assert server.sent_bytes == len(DATA) + 1  # the first look takes one byte
    assert server.asked[2] == f"bytes=1000000-{len(DATA) - 1}"


def test_a_server_without_ranges_is_read_from_the_start_again(server: Server) -> None:
    server.ranges = False
    server.cuts = [0, 1_500_000]
    file = HttpFile(server.uri)
    assert file.size_bytes == len(DATA)
    assert file.read(1000, 50) == DATA[1000:1050]
    server.cuts = [1_500_000]
    assert downloaded(file) == DATA


def test_a_server_that_recovers(server: Server) -> None:
    server.failures = [503, 500]
    file = HttpFile(server.uri)
    server.failures = [429, 502]
    assert downloaded(file) == DATA


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AccessDenied),
        (403, AccessDenied),
        (404, SourceNotFound),
        (410, SourceNotFound),
        (500, SourceUnavailable),
        (503, SourceUnavailable),
    ],
)
def test_what_statuses_mean(server: Server, status: int, error: type[CorepressError]) -> None:
    server.failures = [status] * 100
    with pytest.raises(error, match=str(status)):
        HttpFile(server.uri)
    retries = 100 - len(server.failures)
    assert retries == (5 if error is SourceUnavailable else 1)


def test_a_long_wait_is_left_to_the_caller(server: Server) -> None:
    server.failures, server.retry_after = [429], "3600"
    with pytest.raises(SourceUnavailable) as refusal:
        HttpFile(server.uri)
    assert refusal.value.retry_after_s == 3600
    assert len(server.asked) == 1


def test_a_connection_that_never_brings_anything(server: Server) -> None:
    file = HttpFile(server.uri)
    server.cuts = [0] * 10
    with pytest.raises(SourceUnavailable):
        downloaded(file)
    assert len(server.cuts) == 10 - 5


def test_no_server_at_all() -> None:
    with pytest.raises(SourceUnavailable):
        HttpFile("http://127.0.0.1:1/model.safetensors")


def test_a_file_that_changes_while_it_is_read(server: Server) -> None:
    file = HttpFile(server.uri)
    server.etag = '"two"'
    with pytest.raises(SourceUnavailable, match="changed"):
        downloaded(file)


def test_a_file_that_changed_since_the_job_was_submitted(
    server: Server, workspace: StoreWorkspace
) -> None:
    resolved = resolve(server.uri)
    server.etag = '"two"'
    task = Task("fetch", {"source": resolved, "options": tiny_options("sd15").document()})
    with pytest.raises(InvalidRequest, match="changed"):
        STAGE.run(task, workspace)


def test_a_stated_digest_is_checked(server: Server, workspace: StoreWorkspace) -> None:
    fetch(f"{server.uri}#sha256={SHA256}", workspace)
    with pytest.raises(CorruptCheckpoint, match=SHA256):
        fetch(f"{server.uri}#sha256={'0' * 64}", workspace)
    with pytest.raises(InvalidRequest):
        fetch(f"{server.uri}#md5=abc", workspace)


def test_a_web_page_is_no_checkpoint(server: Server) -> None:
    server.data, server.content_type = b"<!DOCTYPE html><p>Log in", "text/html; charset=utf-8"
    with pytest.raises(CorruptCheckpoint, match="web page"):
        HttpFile(server.uri)


@pytest.mark.parametrize(
    ("name", "start", "error"),
    [
        ("model.ckpt", b"PK\x03\x04", UnsafePickle),
        ("model.safetensors", b"PK\x03\x04", CorruptCheckpoint),
    ],
)
def test_pickles_are_refused_by_their_first_bytes(
    server: Server,
    workspace: StoreWorkspace,
    name: str,
    start: bytes,
    error: type[CorepressError],
) -> None:
    server.data = start + bytes(3_000_000)
    server.disposition = f'attachment; filename="{name}"'
    with pytest.raises(error):
        fetch(server.uri, workspace)
    assert server.sent_bytes < 10_000


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_are_read_by_ranges(
    server: Server, workspace: StoreWorkspace, tmp_path: Path, legacy: bool
) -> None:
    path = tmp_path / "tiny.ckpt"
    torch.save(load_file(checkpoint("sd15")), path, _use_new_zipfile_serialization=not legacy)
    server.data = path.read_bytes()
    server.disposition = 'attachment; filename="tiny.ckpt"'
    options = tiny_options("sd15", allow_pickle=True)
    over_http = fetch(server.uri, workspace, options)
    assert len(server.asked) < 300  # for 395 storages, most of them small
    assert over_http.artifacts == fetch(str(path), workspace, options).artifacts


def test_pickles_on_a_server_without_ranges(server: Server, workspace: StoreWorkspace) -> None:
    server.data = b"PK\x03\x04" + bytes(5_000_000)
    server.disposition = 'attachment; filename="tiny.ckpt"'
    server.ranges = False
    with pytest.raises(InvalidRequest, match="no ranges"):
        fetch(server.uri, workspace, tiny_options("sd15", allow_pickle=True))


def test_what_nobody_can_convert_is_refused_before_it_is_downloaded(
    server: Server, workspace: StoreWorkspace, tmp_path: Path
) -> None:
    save_file({"bert.weight": np.zeros(1_000_000, np.float32)}, tmp_path / "other.safetensors")
    server.data = (tmp_path / "other.safetensors").read_bytes()
    with pytest.raises(UnsupportedCheckpoint):
        fetch(server.uri, workspace)
    assert server.sent_bytes < 10_000


def test_the_file_is_called_what_the_server_calls_it(server: Server) -> None:
    server.disposition = 'attachment; filename="../../evil/real_name.safetensors"'
    assert HttpFile(server.uri).name == "real_name.safetensors"


def test_other_kinds_of_sources_are_refused(workspace: StoreWorkspace) -> None:
    with pytest.raises(InvalidRequest, match="ftp"):
        fetch("ftp://host/model.safetensors", workspace)


def test_a_path_and_its_file_address_are_the_same_source(tmp_path: Path) -> None:
    path = tmp_path / "with space.safetensors"
    path.write_bytes(b"12345")
    resolved = resolve(str(path))
    assert resolved == resolve(path.as_uri())
    path.write_bytes(b"54321")
    assert resolve(str(path)) != resolved
