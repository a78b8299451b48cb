"""``corepress catalogue``, ``gc`` and ``rebuild`` as an operator uses them, on real servers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rabbitmq_server import bus_url, set_up_anew
from s3_server import endpoint, new_bucket
from scripted_fleet import RECIPE, Fleet

from corepress.adapters.embedded.store import FolderStore
from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.topology import topology
from corepress.bootstrap import stage_loaders
from corepress.cli.main import main
from corepress.domain.job import JobRequest
from corepress.domain.recipe import Recipe
from corepress.ports.bus import INTAKE
from corepress.runtime import jobs
from corepress_fetch.source import resolve
from corepress_publish.published import check_sums, missing_from, read_manifest

sys.path.append(str(Path(__file__).parents[1] / "integration"))

from normalize_support import checkpoint, tiny_options


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    location = new_bucket("fleet/")
    monkeypatch.setenv("COREPRESS_STORE", f"s3://{location.bucket}/fleet")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint())
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("COREPRESS_STATE", str(tmp_path / "state"))
    return Fleet(location, tmp_path)


def corepress(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def document(*arguments: str) -> dict[str, Any]:
    result = corepress(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_catalogue(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert corepress("catalogue").stdout == ""
    fleet.finish(fleet.submit("one"))
    fleet.finish(fleet.submit("two"))
    listed = document("catalogue")["publications"]
    assert [(each["name"], each["build"], each["latest"]) for each in listed] == [
        ("one", "small", True),
        ("two", "small", True),
    ]
    lines = corepress("catalogue").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        [each["name"], each["build"], each["version"]] for each in listed
    ]
    assert document("catalogue", "none-such") == {"publications": []}
    fleet.upgrade(monkeypatch, coremltools="9.0")
    request = JobRequest("x", (RECIPE,), "one")
    fleet.finish(fleet.open("again", request, fleet.script("one")))
    assert [each["latest"] for each in document("catalogue", "one")["publications"]] == [
        False,
        True,
    ]
    (old, _) = (each["version"] for each in document("catalogue", "one")["publications"])
    assert corepress("promote", "one", "small", old).stdout == f"one/small is now version {old}\n"
    assert document("promote", "one", "small", old[:8])["number"] == 3
    assert [each["latest"] for each in document("catalogue", "one")["publications"]] == [
        False,
        False,
        True,
    ]
    assert document("catalogue")["publications"][0]["version"] == old
    assert corepress("promote", "one", "small", "nonsense").exit_code == 3


def test_gc(fleet: Fleet) -> None:
    assert fleet.finish(fleet.submit("failed", normalize=["permanent"])).errors
    assert document("gc")["blobs"] == 0
    told = document("gc", "--grace", "0", "--dry-run")
    assert (told["dry_run"], told["actions"], told["blobs"]) == (True, 1, 1)
    result = corepress("gc", "--grace", "0s")
    assert result.exit_code == 0, result.stderr
    assert "removed 1 files" in result.stdout
    assert document("gc", "--grace", "0")["blobs"] == 0
    kept = document("gc", "--jobs-older-than", "30d", "--drops-older-than", "1d")
    assert (kept["jobs"], kept["drops"], kept["drop_bytes"]) == (0, 0, 0)


def test_gc_of_a_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with store.writer() as writer:
        writer.write(b"nobody's")
        blob = writer.commit()
    assert document("gc", "--state", str(tmp_path))["kept_blobs"] == 1
    assert document("gc", "--state", str(tmp_path), "--grace", "0")["blobs"] == 1
    assert not store.has(blob)
    store.put("jobs/job/result.json", b"{}")
    assert document("gc", "--state", str(tmp_path), "--grace", "0")["jobs"] == 0
    forget = ("--grace", "0", "--jobs-older-than", "0", "--drops-older-than", "0")
    result = corepress("gc", "--state", str(tmp_path), *forget)
    assert "removed 1 ended jobs, 0 drops" in result.stdout
    assert list(store.keys("jobs/")) == []
    assert corepress("gc", "--jobs-older-than", "23h").exit_code == 2
    assert corepress("gc", "--state", str(tmp_path / "absent")).exit_code == 2
    assert corepress("gc", "--grace", "soon").exit_code == 2


def test_rebuild(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREPRESS_BUS", bus_url())
    link = Link(bus_url(), "test")
    set_up_anew(link, topology((INTAKE, *stage_loaders())))
    link.close()
    fleet.finish(fleet.submit("one"))
    asked = ("rebuild", "--component", "text_encoder", "--where", "coremltools < 9")
    (told,) = document(*asked, "--dry-run")["rebuilds"]
    assert [entry["name"] for entry in told["entries"]] == ["one"]
    assert told["job"] is None
    assert corepress(*asked, "--dry-run").stdout.splitlines() == [
        "one/small  coremltools 8.3.0",
        "1 of 1 published builds are selected",
    ]
    (done,) = document(*asked)["rebuilds"]
    fleet.bus = RabbitBus(bus_url())
    fleet.upgrade(monkeypatch, coremltools="9.0")
    while jobs.result(fleet.store, done["job"]) is None:
        assert fleet.worker.step(10.0)
    fleet.bus.close()
    (entry,) = document("catalogue")["publications"]
    assert (entry["number"], entry["job"]) == (2, done["job"])
    assert document(*asked) == {"dry_run": False, "rebuilds": []}


def test_a_condition_that_means_nothing(fleet: Fleet) -> None:
    fleet.finish(fleet.submit("one"))
    result = corepress("rebuild", "--component", "unet", "--where", "coremltool < 9")
    assert result.exit_code == 3
    assert "there is no fact 'coremltool'" in result.stderr


def test_a_real_bundle_in_the_catalogue(fleet: Fleet) -> None:
    """With the stages that convert."""
    fleet.worker = fleet.worker_on(fleet.store, {n: load() for n, load in stage_loaders().items()})
    source = str(checkpoint("sd15"))
    recipes = (Recipe("text", components=["text_encoder"]),)
    request = JobRequest(source, recipes, "tiny", tiny_options("sd15"))
    assert fleet.finish(fleet.open("tiny", request, resolve(source))).errors == {}
    (entry,) = document("catalogue")["publications"]
    bundle = fleet.root / "bundle"
    for key in fleet.store.keys(entry["path"]):
        path = bundle / key.removeprefix(entry["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(fleet.store.get(key))
    assert check_sums(bundle, lambda *_: None) == 7
    manifest = read_manifest(bundle)
    assert "TextEncoder" not in missing_from(bundle, manifest)
    component = entry["components"]["text_encoder"]
    assert component["toolchain"]["coremltools"] == entry["toolchain"]["coremltools"]
    assert min(db["conversion"] for db in component["psnr_db"].values()) > 60
