"""`corepress fleet` and the drop folder, with a real broker, object store and workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import corepress, invoke
from fleet_support import BUCKET, LocalFleet, wait_until
from normalize_support import TINY, checkpoint

from corepress.adapters.s3.client import S3Location, open_client

DEFAULTS = f"""\
defaults:
  original-config: {TINY}/sd15/config.yaml
  config: {{text_encoder: {TINY}/sd15/text_encoder.config.json}}
  recipes: small
  tags: [first]
recipes:
  small: {{components: [text_encoder]}}
models:
"""
MODEL = str(checkpoint("sd15"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    with (
        pytest.MonkeyPatch.context() as environment,
        LocalFleet(tmp_path_factory.mktemp("fleet") / "local") as fleet,
    ):
        for name, value in fleet.environment.items():
            environment.setenv(name, value)
        fleet.add_worker("intake", "fetch", "normalize", "convert", "publish")
        yield fleet


def write(folder: Path, *models: str) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(DEFAULTS + "".join(f"- {model}\n" for model in models))
    return path


def states(document: dict[str, Any]) -> dict[str, str]:
    return {job["name"]: job["state"] for job in document["jobs"]}


def test_submitting_again_does_what_is_new_or_changed(fleet: LocalFleet, tmp_path: Path) -> None:
    late = tmp_path / "late.safetensors"
    one = f"{{source: {MODEL}, name: one}}"
    file = write(tmp_path, one, str(late), "ftp://host/odd.safetensors")
    del fleet

    told = invoke("fleet", file, "--dry-run")
    assert [job["state"] for job in told["jobs"]] == ["new"] * 3
    errors = [job["error"] and job["error"]["code"] for job in told["jobs"]]
    assert errors == [None, "source-not-found", "invalid-request"]
    assert [job["cached"] for job in told["jobs"]] == [[], [], []]
    assert told["disk_bytes"] == told["jobs"][0]["disk_bytes"] > checkpoint("sd15").stat().st_size
    assert told["mac_minutes"] == 0

    done = corepress("fleet", file, "--watch", status=3)
    assert "line 8: one-" in done.stderr
    assert "3 jobs: 1 done, 2 failed" in done.stdout
    assert "source-not-found" in done.stdout

    told = invoke("fleet", file)
    assert states(told) == {"one": "done", "late": "failed", "odd": "failed"}
    assert told["summary"] == {"done": 1, "failed": 2}
    assert told["jobs"][2]["error"]["code"] == "invalid-request"

    two = f"{{source: {MODEL}, name: two, clip-skip: 2}}"
    file = write(tmp_path, one, two, str(late))
    told = invoke("fleet", file, "--dry-run")
    assert [job["state"] for job in told["jobs"]] == ["done", "new", "failed"]
    assert told["jobs"][1]["cached"] == ["fetch", "normalize"]
    assert [step.split("-")[0] for step in told["jobs"][1]["steps"]] == ["convert"]

    late.write_bytes(checkpoint("sd15").read_bytes())
    told = invoke("fleet", file, "--again", "--watch")
    assert states(told) == {"one": "done", "two": "done", "late": "done"}
    jobs = {job["name"]: job["tags"] for job in invoke("status")["jobs"]}
    assert jobs == {name: ["first"] for name in ("one", "two", "late", "odd")}


def test_a_model_that_the_fleet_cannot_read_stops_no_other(
    fleet: LocalFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    monkeypatch.setenv("COREPRESS_LOCAL_SOURCES", str(shared))
    file = write(tmp_path, f"{{source: {MODEL}, name: hidden}}", str(shared / "open.safetensors"))
    told = invoke("fleet", file, status=3)
    assert states(told) == {"hidden": "refused", "open": "submitted"}
    assert "COREPRESS_LOCAL_SOURCES" in told["jobs"][0]["error"]["hint"]
    assert told["jobs"][0]["line"] == 8
    del fleet


def test_a_faulty_file_is_refused_with_its_lines(tmp_path: Path) -> None:
    file = write(tmp_path, "{source: a, clip-skp: 1}", "{name: b}")
    error = invoke("fleet", file, status=3)["error"]
    assert error["code"] == "invalid-fleet-file"
    assert [line.split(": ")[0] for line in error["message"].splitlines()] == [
        f"{file}:8",
        f"{file}:9",
    ]


def test_without_a_store_nothing_counts_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COREPRESS_STORE", raising=False)
    compiled = f"{{source: {MODEL}, compile: required}}"
    shown = corepress("fleet", write(tmp_path, compiled), "--dry-run", environment={})
    assert "4 steps" in shown.stdout
    assert "minutes of a Mac" in shown.stdout
    assert "assumed for each model, not measured" in shown.stdout


def test_a_dropped_request_is_done_and_a_wrong_one_put_aside(fleet: LocalFleet) -> None:
    configuration = json.loads((TINY / "sd15" / "text_encoder.config.json").read_text())
    request = {
        "source": MODEL,
        "name": "dropped",
        "recipes": [{"name": "small", "components": ["text_encoder"]}],
        "config": {"text_encoder": configuration},
    }
    client = open_client(S3Location(BUCKET))
    for name, body in (("a", json.dumps(request)), ("b", '{"source": "x"}')):
        client.put_object(Bucket=BUCKET, Key=f"fleet/drop/{name}.job.json", Body=body.encode())

    def settled() -> bool:
        return any(
            job["name"] == "dropped" and job["state"] != "running"
            for job in invoke("status")["jobs"]
        )

    wait_until(settled, fleet.log_of(fleet.workers[0]).read_text)
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix="fleet/")["Contents"]
    ours = [
        entry["Key"].split("/", 1)[1]
        for entry in listed
        if entry["Key"].startswith(("fleet/drop", "fleet/accepted/", "fleet/rejected/"))
    ]
    assert [key.rpartition("/")[2] for key in ours] == [
        *("a.accepted.json", "a.job.json"),
        *("b.error.json", "b.job.json"),
    ]
    (job,) = [job for job in invoke("status")["jobs"] if job["name"] == "dropped"]
    assert job["state"] == "done"
