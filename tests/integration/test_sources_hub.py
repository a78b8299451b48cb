"""Sources on a Hugging Face hub, through its own client, against a hub on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import corepress, files_below, invoke, tiny_arguments
from hub_support import TOKEN, Files, Hub, hub_of, repository
from normalize_support import checkpoint, tiny_options, write_padded
from process_support import Started

from corepress.adapters.embedded.pruning import clear_leftovers
from corepress.adapters.embedded.store import FolderStore
from corepress.domain.errors import CorruptCheckpoint, SourceUnavailable
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.stage import Outputs, Task
from corepress.runtime.direct_file import BLOCK_BYTES
from corepress.runtime.workspace import StoreWorkspace
from corepress_fetch import http_retry
from corepress_fetch.source import pinned, resolve
from corepress_fetch.stage import STAGE

DATA = checkpoint("sd15").read_bytes()
OPTIONS = tiny_arguments("sd15")[1:]
FILE = "tiny.safetensors"
HEADERS_BYTES = 500_000
"""More than headers take, however often they are read."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a tiny checkpoint."""
    out = tmp_path_factory.mktemp("hub") / "folder"
    invoke("normalize", *tiny_arguments("sd15"), "--out", out)
    (out / "corepress.json").unlink()
    return out


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr(http_retry, "_wait_s", lambda _: 0.01)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    repositories = {
        "someone/Tiny": repository(published(folder)),
        "someone/files": repository({"README.md": b"a card", FILE: DATA}),
        "else/copy": repository({FILE: DATA, "other.txt": b"other"}),
    }
    with hub_of(Hub(repositories)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def published(folder: Path) -> Files:
    """A folder as a repository, with much beside it that nobody needs."""
    unused = {
        ".gitattributes": b"*.safetensors filter=lfs",
        "README.md": b"---\nlicense: mit\n---\nA model.",
        "flax_model.msgpack": bytes(100_000),
        "unet/diffusion_pytorch_model.bin": bytes(2_000_000),
        "deep/er/file.json": b"{}",
    }
    return {**unused, **files_below(folder)}


def fetch(uri: str, store: FolderStore, scratch: Path) -> Outputs:
    task = Task("fetch", {"source": resolve(uri), "options": tiny_options("sd15").document()})
    return STAGE.run(task, StoreWorkspace(store, scratch, lambda *_: None))


def commit_of(hub: Hub, name: str) -> str:
    return hub.repositories[name].branches["main"]


def test_inspecting_reads_headers_only(hub: Hub, folder: Path) -> None:
    found = invoke("inspect", "hf://someone/Tiny@main")
    assert hub.traffic.sent_bytes < len(DATA) / 20
    local = invoke("inspect", folder)
    assert found["source"] == "hf://someone/Tiny@main"
    for key in ("layout", "family", "components", "produces"):
        assert found[key] == local[key], key
    needed_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    card_bytes = len(published(folder)["README.md"])
    assert found["needs"]["download_bytes"] == needed_bytes + card_bytes
    assert local["needs"]["download_bytes"] == 0
    assert "to download" in corepress("inspect", "hf://someone/Tiny").stdout


def test_normalizing_takes_what_is_needed_of_one_commit(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    manifest = invoke("normalize", "hf://someone/Tiny", "--out", tmp_path / "out")
    local = invoke("normalize", folder, "--out", tmp_path / "local")
    assert manifest["files"] == local["files"]
    commit = commit_of(hub, "someone/Tiny")
    assert manifest["source"]["uri"] == f"hf://someone/Tiny@{commit}"
    needed = {*files_below(folder), "README.md"}
    assert hub.files_asked == manifest["source"]["files"].keys() == needed
    assert hub.storage_asked_with == {None}  # the token is the hub's alone
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "local", "hf"}


@pytest.mark.usefixtures("hub")
def test_a_folder_of_a_repository() -> None:
    found = invoke("inspect", "hf://someone/Tiny/unet")
    assert found["components"].keys() == {"unet"}


def test_what_the_store_has_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    first = fetch(f"hf://someone/files/{FILE}", store, tmp_path)
    before = hub.traffic.sent_bytes
    assert before > len(DATA)
    second = fetch("hf://else/copy", store, tmp_path)
    assert hub.traffic.sent_bytes - before < len(DATA) / 20
    assert second.artifacts == first.artifacts  # with all that is known of the tensors
    digest = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    assert {blob.digest for blob in second.artifacts["source"].files.values()} == {digest}


def test_a_revision_is_the_commit_that_it_was(hub: Hub, tmp_path: Path) -> None:
    moving = hub.repositories["someone/files"]
    before = resolve("hf://someone/files@main")
    request = pinned(
        JobRequest(
            f"hf://someone/files/{FILE}",
            (),
            "",
            CheckpointOptions(vae="hf://else/copy"),
            controlnets=("hf://someone/Tiny",),
        )
    )
    newer = repository({FILE: DATA + bytes(8)})
    (commit,) = newer.commits
    moving.commits |= newer.commits
    moving.branches["main"] = commit
    assert resolve("hf://someone/files@main") != before
    assert resolve(before["uri"]) == before
    old = before["uri"].rpartition("@")[2]
    assert request.source == f"hf://someone/files@{old}/{FILE}"
    assert request.options.vae == f"hf://else/copy@{commit_of(hub, 'else/copy')}"
    assert request.controlnets == (f"hf://someone/Tiny@{commit_of(hub, 'someone/Tiny')}",)
    moving.branches["refs/pr/1"] = moving.branches["a/b"] = old
    assert resolve("hf://someone/files@refs/pr/1")["uri"] == before["uri"]
    assert resolve("hf://someone/files@a%2Fb")["uri"] == before["uri"]
    task = Task("fetch", {"source": before, "options": tiny_options("sd15").document()})
    workspace = StoreWorkspace(FolderStore(tmp_path / "store"), tmp_path, lambda *_: None)
    assert STAGE.run(task, workspace).artifacts["source"].size_bytes == len(DATA)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_gated_repository(hub: Hub, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["someone/Tiny"].gated = True
    if token is not None:
        assert invoke("inspect", "hf://someone/Tiny")["family"] == "sd15"
        return
    monkeypatch.delenv("HF_TOKEN")
    error = invoke("inspect", "hf://someone/Tiny", status=4)["error"]
    assert error["code"] == "access-denied"
    assert f"{hub.address}/someone/Tiny" in error["hint"]
    assert "HF_TOKEN" in error["hint"]


@pytest.mark.parametrize(
    ("source", "code", "status", "says"),
    [
        ("hf://someone/nothing", "source-not-found", 3, "/someone/nothing"),
        ("hf://someone/Tiny@v9", "source-not-found", 3, "'v9'"),
        ("hf://someone/Tiny/absent.safetensors", "source-not-found", 3, "absent.safetensors"),
        ("hf://someone", "invalid-request", 3, "hf://owner/name"),
        ("hf://some..one/Tiny", "invalid-request", 3, "some..one"),
        ("hf://evil/model", "unsafe-path", 3, ".."),
    ],
)
def test_what_is_no_source(
    hub: Hub, source: str, code: str, status: int, says: str, tmp_path: Path
) -> None:
    hub.repositories["evil/model"] = repository({"../../model.safetensors": DATA})
    run = ("run", source, "--recipe", "original", "--out", tmp_path / "out")
    for command in (
        ("inspect", source),
        ("normalize", source, "--out", tmp_path / "out"),
        (*run, "--state", tmp_path / "state"),
    ):
        error = invoke(*command, status=status)["error"]
        assert error["code"] == code
        assert says in error["message"] + error["hint"]
        assert not (tmp_path / "out").exists()


def test_a_private_repository_without_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["someone/Tiny"].private = True
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    error = invoke("inspect", "hf://someone/Tiny", status=4)["error"]
    assert error["code"] == "access-denied"
    assert f"{hub.address}/someone/Tiny" in error["hint"]


def test_a_hub_that_recovers(hub: Hub) -> None:
    hub.traffic.failures = [503, 429]
    assert resolve("hf://someone/Tiny")["uri"].startswith("hf://someone/Tiny@")
    hub.traffic.failures = [503] * 10
    with pytest.raises(SourceUnavailable, match="503"):
        resolve("hf://someone/Tiny")
    assert len(hub.traffic.failures) == 10 - 5


def test_no_hub_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_retry, "_wait_s", lambda _: 0.01)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    error = invoke("inspect", "hf://someone/Tiny", status=4)["error"]
    assert error["code"] == "source-unavailable"
    assert "127.0.0.1:1" in error["hint"]


def test_damaged_on_the_way(hub: Hub, tmp_path: Path) -> None:
    hub.damaged = {FILE}
    store = FolderStore(tmp_path / "store")
    with pytest.raises(CorruptCheckpoint, match=hashlib.sha256(DATA).hexdigest()):
        fetch("hf://someone/files", store, tmp_path)
    assert files_below(tmp_path / "store") == {}
    hub.damaged = set()
    assert fetch("hf://someone/files", store, tmp_path).artifacts["source"].files.keys() == {FILE}


def test_cut_connections_are_resumed(hub: Hub, tmp_path: Path) -> None:
    hub.traffic.cuts = [1_000_000, 700_000]
    store = FolderStore(tmp_path / "store")
    fetch("hf://someone/files", store, tmp_path)
    assert hub.traffic.sent_bytes < 1.1 * len(DATA)
    assert files_below(tmp_path / "store" / "partial") == {}


def test_what_was_kept_may_be_damaged(hub: Hub, tmp_path: Path) -> None:
    """By a power cut, say: then the download begins anew."""
    store = FolderStore(tmp_path / "store")
    data = write_padded(tmp_path / FILE)
    hub.repositories["someone/files"] = repository({FILE: data})
    digest = hashlib.sha256(data).hexdigest()
    (store.root / "partial" / digest).write_bytes(bytes(2 * BLOCK_BYTES))
    blobs = fetch("hf://someone/files", store, tmp_path).artifacts["source"].files
    assert blobs[FILE].digest == f"sha256:{digest}"
    assert files_below(store.root / "partial") == {}


def kept_bytes(state: Path) -> int:
    return sum(path.stat().st_size for path in (state / "partial").iterdir())


def test_killed_while_downloading(hub: Hub, tmp_path: Path) -> None:
    """Whoever fetches the file next goes on where the download was when it was killed."""
    data = write_padded(tmp_path / FILE)
    hub.repositories["someone/files"] = repository({FILE: data})
    state = tmp_path / "state"
    hub.traffic.stall_bytes = 15_000_000
    command = Started(
        [
            *("run", "hf://someone/files", *OPTIONS, "--recipe", "original"),
            *("--out", str(tmp_path / "out"), "--state", str(state)),
        ],
        tmp_path / "log",
    )
    assert hub.traffic.stalled.wait(60), command.said
    command.wait_until(lambda: kept_bytes(state) >= 2 * BLOCK_BYTES)
    command.kill()
    hub.traffic.stall_bytes = None
    hub.traffic.released.set()
    clear_leftovers(state)  # as the next run does
    assert files_below(state / "blobs") == {}
    before = hub.traffic.sent_bytes
    blobs = fetch("hf://someone/files", FolderStore(state), tmp_path).artifacts["source"].files
    assert blobs[FILE].digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert hub.traffic.sent_bytes - before < len(data) - 2 * BLOCK_BYTES + HEADERS_BYTES
    assert FolderStore(state).open(blobs[FILE]).read(0, len(data)) == data
    assert files_below(state / "partial") == {}
