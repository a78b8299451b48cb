"""Publishing to repositories on a hub: what they hold, in which order, and what goes wrong."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from click.testing import CliRunner
from hub_upload_support import TOKEN, UploadHub, uploading_hub
from publishing_support import bundle, known_job, manifest

from corepress.adapters.embedded.store import FolderStore
from corepress.adapters.hub import HubPublisher
from corepress.cli.main import main
from corepress.domain.artifact import Artifact
from corepress.domain.errors import AccessDenied, HubUnavailable
from corepress.domain.job import JobRequest
from corepress.domain.publication import version_of
from corepress.domain.recipe import Recipe
from corepress.ports.clock import SystemClock
from corepress.runtime import catalogue, jobs
from corepress.runtime.worker import RetryPolicy

sys.path.append(str(Path(__file__).parents[1] / "integration"))

from bundle_support import READ, SOURCE

REPOSITORY = "owner/coreml-one"
WEIGHTS = "Resources/Unet.mlpackage/weight.bin"
ARCHIVE = "coreml-one_original_packages.zip"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with uploading_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "state")


@pytest.fixture
def publisher(store: FolderStore, tmp_path: Path) -> HubPublisher:
    return HubPublisher(store, tmp_path / "scratch")


def job_for(
    store: FolderStore, *recipes: Recipe, publish: tuple[str, ...] = (f"hf://{REPOSITORY}",)
) -> str:
    """A job that is to be published on the hub."""
    job = known_job(store, f"job-{len(list(store.keys('jobs/')))}")
    request = JobRequest("x", recipes or (Recipe("original"),), "one", publish=publish)
    jobs.write_request(store, job, request)
    return job


def archived(data: bytes) -> dict[str, bytes]:
    with ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_repository_holds_the_bundle_and_an_archive_for_apps(
    hub: UploadHub, store: FolderStore, publisher: HubPublisher, tmp_path: Path
) -> None:
    one = bundle(store, b"weights")
    publisher.publish(job_for(store), "one", "original", one)
    repository = hub.repositories[REPOSITORY]
    assert repository.private
    assert repository.messages[1:] == [f"one, original, version {version_of(one)}"]
    files = dict(repository.files)
    del files[".gitattributes"]
    assert archived(files.pop(ARCHIVE)) == {
        "coreml-one_original_packages/Unet.mlpackage/weight.bin": b"weights"
    }
    card = files.pop("README.md")
    assert files == {
        "original/README.md": card,
        "original/manifest.json": json.dumps(
            manifest(), sort_keys=True, separators=(",", ":")
        ).encode(),
        f"original/{WEIGHTS}": b"weights",
    }
    assert list((tmp_path / "scratch").iterdir()) == []


def test_published_again_nothing_is_committed(
    hub: UploadHub, store: FolderStore, publisher: HubPublisher
) -> None:
    one = bundle(store, b"weights")
    job = job_for(store)
    publisher.publish(job, "one", "original", one)
    uploads = hub.uploads
    publisher.publish(job, "one", "original", one)
    assert hub.uploads == uploads
    assert len(hub.repositories[REPOSITORY].commits) == 2


def test_a_new_version_takes_the_place_of_the_old(
    hub: UploadHub, store: FolderStore, publisher: HubPublisher
) -> None:
    """Compiled models instead of packages; and nothing else in the repository is touched."""
    hub.create(REPOSITORY)
    hub.commit(REPOSITORY, {"notes.txt": b"mine", "other/manifest.json": b"{}"}, "mine")
    old = bundle(store, b"old")
    publisher.publish(job_for(store), "one", "original", old)
    files = {
        path.replace(".mlpackage/", ".mlmodelc/"): blob
        for path, blob in bundle(store, b"new").files.items()
    }
    publisher.publish(job_for(store), "one", "original", Artifact(files))
    assert hub.repositories[REPOSITORY].files.keys() == {
        *("notes.txt", "other/manifest.json", "README.md", "coreml-one_original_compiled.zip"),
        *(f"original/{path}" for path in files),
    }


def test_several_builds_in_one_repository(
    hub: UploadHub, store: FolderStore, publisher: HubPublisher
) -> None:
    """The first of those with the same attention has the name that apps look for."""
    job = job_for(store, Recipe("first"), Recipe("second"))
    for build in ("second", "first"):
        publisher.publish(job, "one", build, bundle(store, build.encode()))
    files = hub.repositories[REPOSITORY].files
    assert b"first" in archived(files[ARCHIVE]).values()
    assert b"second" in archived(files["coreml-one_second_original_packages.zip"]).values()
    assert files[f"second/{WEIGHTS}"] == b"second"
    assert "README.md" in files


def test_nothing_older_than_the_catalogues_latest(
    hub: UploadHub, store: FolderStore, publisher: HubPublisher
) -> None:
    old, new = bundle(store, b"old"), bundle(store, b"new")
    job = job_for(store)
    for each in (old, new):
        catalogue.enter(store, SystemClock(), job, "one", "original", each, manifest())
    publisher.publish(job, "one", "original", new)
    publisher.publish(job, "one", "original", old)
    assert hub.repositories[REPOSITORY].files[f"original/{WEIGHTS}"] == b"new"


def test_overtaken_by_a_newer_version(
    hub: UploadHub, store: FolderStore, publisher: HubPublisher
) -> None:
    old, new = bundle(store, b"old"), bundle(store, b"new")
    job = job_for(store)
    catalogue.enter(store, SystemClock(), job, "one", "original", old, manifest())

    def overtake() -> None:
        catalogue.enter(store, SystemClock(), job, "one", "original", new, manifest())
        publisher.publish(job, "one", "original", new)

    hub.before_commit.append(overtake)
    publisher.publish(job, "one", "original", old)
    assert hub.repositories[REPOSITORY].files[f"original/{WEIGHTS}"] == b"new"


def test_others_commit_at_the_same_moment(
    hub: UploadHub, store: FolderStore, publisher: HubPublisher
) -> None:
    def commit() -> None:
        files = hub.repositories[REPOSITORY].files | {"notes.txt": b"mine"}
        hub.commit(REPOSITORY, files, "mine")

    hub.before_commit.append(commit)
    publisher.publish(job_for(store), "one", "original", bundle(store, b"weights"))
    files = hub.repositories[REPOSITORY].files
    assert (files["notes.txt"], files[f"original/{WEIGHTS}"]) == (b"mine", b"weights")


def test_no_token(
    hub: UploadHub, store: FolderStore, publisher: HubPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(AccessDenied) as refused:
        publisher.publish(job_for(store), "one", "original", bundle(store, b"weights"))
    assert f"{hub.address}/{REPOSITORY}" in refused.value.hint


@pytest.mark.parametrize("status", [429, 502])
def test_a_hub_in_trouble(
    hub: UploadHub, store: FolderStore, publisher: HubPublisher, status: int
) -> None:
    hub.failures.append(status)
    with pytest.raises(HubUnavailable):
        publisher.publish(job_for(store), "one", "original", bundle(store, b"weights"))
    publisher.publish(job_for(store), "one", "original", bundle(store, b"weights"))


def test_no_hub(
    store: FolderStore, publisher: HubPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(HubUnavailable, match="hf://owner/coreml-one"):
        publisher.publish(job_for(store), "one", "original", bundle(store, b"weights"))


def test_no_wish(store: FolderStore, publisher: HubPublisher) -> None:
    publisher.publish(job_for(store, publish=()), "one", "original", bundle(store, b"weights"))


def test_run_and_publish(hub: UploadHub, tmp_path: Path) -> None:
    """What is downloaded from the repository passes `corepress verify`."""
    recipe = tmp_path / "text.yaml"
    recipe.write_text("name: text\ncomponents: [text_encoder]\n")
    arguments = ["run", SOURCE, "--recipe", recipe, "--out", tmp_path / "out", *READ]
    arguments += ["--publish", f"hf://{REPOSITORY}", "--state", tmp_path / "state"]
    arguments += ["--compile", "never"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    files = hub.repositories[REPOSITORY].files
    for path, data in files.items():
        file = tmp_path / "repository" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "repository" / "text")])
    assert result.exit_code == 0, result.stderr
    assert files["README.md"] == files["text/README.md"]
    assert "coreml-one_original_packages/TextEncoder.mlpackage/Manifest.json" in archived(
        files[ARCHIVE]
    )


def test_a_hub_in_trouble_costs_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("corepress.bootstrap._WATCHED", RetryPolicy(transient_attempts=2))
    recipe = tmp_path / "text.yaml"
    recipe.write_text("name: text\ncomponents: [text_encoder]\n")
    out = tmp_path / "out"
    arguments = ["run", SOURCE, "--recipe", recipe, "--out", out, *READ, "--name", "tiny"]
    arguments += ["--publish", f"hf://{REPOSITORY}", "--compile", "never", "--json"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 4, result.stderr
    document = json.loads(result.stdout)
    assert document["error"]["code"] == "hub-unavailable"
    assert list(document["jobs"][0]["builds"]) == ["text"]
    assert list(document["jobs"][0]["errors"]) == ["publish-text"]
    assert (out / "tiny" / "text" / "manifest.json").exists()


@pytest.mark.parametrize("target", ["owner/repo", "hf://owner", "hf://owner/repo/file.zip"])
def test_run_refuses_what_is_no_repository(target: str, tmp_path: Path) -> None:
    arguments = ["run", str(SOURCE), "--recipe", "original", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*arguments, "--publish", target])
    assert result.exit_code == 3
    assert "invalid-request" in result.stderr
