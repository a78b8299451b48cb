"""Sources on Civitai, against a site on this machine that answers as it does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from civitai_support import TOKEN, Civitai, Entry, civitai_of
from cli_support import files_below, invoke, tiny_arguments
from normalize_support import TINY, checkpoint, tiny_options

from corepress.adapters.embedded.store import FolderStore
from corepress.domain.errors import CorruptCheckpoint
from corepress.domain.job import JobRequest, default_name
from corepress.domain.stage import Task
from corepress.runtime.workspace import StoreWorkspace
from corepress_fetch import http_retry
from corepress_fetch.source import pinned, resolve
from corepress_fetch.stage import STAGE

DATA = checkpoint("sd15").read_bytes()
OPTIONS = tiny_arguments("sd15")[1:]
NAME = "Tiny Model_v2.safetensors"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Civitai]:
    monkeypatch.setattr(http_retry, "_wait_s", lambda _: 0.01)
    versions = {
        1: [
            Entry("training.zip", b"zip", type="Training Data", format="Other"),
            Entry("tiny.ckpt", b"pickle", format="PickleTensor", primary=True),
            Entry("tiny_full.safetensors", b"weights"),
        ],
        2: [
            Entry("tiny_full.safetensors", DATA + bytes(8)),
            Entry(NAME, DATA, primary=True),
            Entry("vae.safetensors", b"weights", type="VAE"),
        ],
        3: [
            Entry("tiny.safetensors", checkpoint("sd21-v").read_bytes(), primary=True),
            Entry("any.yaml", (TINY / "sd21-v/config.yaml").read_bytes(), type="Config"),
        ],
        4: [Entry("training.zip", b"zip", type="Training Data", format="Other")],
        5: [Entry(NAME, DATA, primary=True, sha256="0" * 64)],
    }
    with civitai_of(Civitai(versions)) as site:
        monkeypatch.setenv("CIVITAI_ENDPOINT", site.address)
        monkeypatch.setenv("CIVITAI_API_TOKEN", TOKEN)
        yield site


def test_the_primary_file_of_a_version(site: Civitai, tmp_path: Path) -> None:
    site.needs_token = True
    found = invoke("inspect", "civitai://2", *OPTIONS)
    assert site.traffic.sent_bytes < len(DATA) / 20
    assert found["needs"]["download_bytes"] == len(DATA)
    manifest = invoke("normalize", "civitai://2", *OPTIONS, "--out", tmp_path / "out")
    local = invoke("normalize", checkpoint("sd15"), *OPTIONS, "--out", tmp_path / "local")
    assert manifest["files"] == local["files"]
    assert manifest["source"] == {
        "uri": "civitai://2/Tiny%20Model_v2.safetensors",
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "files": {NAME: {"bytes": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}},
    }
    assert site.storage_asked_with == {None}  # the token is the site's alone


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("civitai://1", "tiny_full.safetensors"),
        ("civitai://1/tiny.ckpt", "tiny.ckpt"),
        ("civitai://2", NAME),
        ("civitai://2/vae.safetensors", "vae.safetensors"),
    ],
)
@pytest.mark.usefixtures("site")
def test_which_file_is_taken(source: str, file: str) -> None:
    assert resolve(source)["fingerprint"].keys() == {file}


@pytest.mark.usefixtures("site")
def test_the_name_is_the_file_s() -> None:
    request = pinned(JobRequest("civitai://2", (), ""))
    assert default_name(request.source) == "tiny-model_v2"
    assert pinned(request) == request


@pytest.mark.usefixtures("site")
def test_a_configuration_that_is_published_with_it(tmp_path: Path) -> None:
    """It tells what weights cannot: that this one predicts v."""
    config = TINY / "sd21-v" / "text_encoder.config.json"
    options = ("--config", f"text_encoder={config}")
    manifest = invoke("normalize", "civitai://3", *options, "--out", tmp_path / "out")
    assert manifest["prediction_type"] == "v_prediction"
    assert manifest["source"]["files"].keys() == {"tiny.safetensors", "tiny.yaml"}
    expected = invoke("normalize", *tiny_arguments("sd21-v"), "--out", tmp_path / "local")
    assert manifest["files"] == expected["files"]
    assert any("tiny.yaml" in each["choice"] for each in manifest["decisions"])


def test_another_file_than_stated(site: Civitai, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    options = tiny_options("sd15").document()
    task = Task("fetch", {"source": resolve("civitai://5"), "options": options})
    with pytest.raises(CorruptCheckpoint, match="0" * 64):
        STAGE.run(task, StoreWorkspace(store, tmp_path, lambda *_: None))
    assert files_below(tmp_path / "store") == {}
    assert site.traffic.sent_bytes > len(DATA)


@pytest.mark.parametrize(
    ("source", "code", "status", "hint"),
    [
        ("civitai://99", "source-not-found", 3, ""),
        ("civitai://4", "source-not-found", 3, "training.zip"),
        ("civitai://2/absent.safetensors", "source-not-found", 3, NAME),
        ("civitai://tiny", "invalid-request", 3, "modelVersionId"),
    ],
)
@pytest.mark.usefixtures("site")
def test_what_is_no_source(source: str, code: str, status: int, hint: str) -> None:
    error = invoke("inspect", source, status=status)["error"]
    assert error["code"] == code
    assert hint in error["hint"]


@pytest.mark.parametrize("token", [None, "another"])
def test_a_download_that_needs_a_token(
    site: Civitai, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.needs_token = True
    monkeypatch.delenv("CIVITAI_API_TOKEN")
    if token:
        monkeypatch.setenv("CIVITAI_API_TOKEN", token)
    error = invoke("inspect", "civitai://2", status=4)["error"]
    assert error["code"] == "access-denied"
    assert f"{site.address}/models/7" in error["hint"]
    assert "CIVITAI_API_TOKEN" in error["hint"]


def test_a_site_that_fails(site: Civitai, monkeypatch: pytest.MonkeyPatch) -> None:
    site.traffic.failures = [503, 502]
    resolve("civitai://2")
    site.traffic.failures = [503] * 10
    error = invoke("inspect", "civitai://2", status=4)["error"]
    assert error["code"] == "source-unavailable"
    monkeypatch.setenv("CIVITAI_ENDPOINT", f"{site.address}/login?")
    error = invoke("inspect", "civitai://2", status=4)["error"]
    assert error["code"] == "source-unavailable"
