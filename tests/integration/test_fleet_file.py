"""`corepress fleet` and the drop folder, with a real broker, object store and workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import corepress, invoke
from fleet_support import BUCKET, LocalFleet, drop, wait_until
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
    assert "line 9: one-" in done.stderr
    assert "3 jobs: 1 done, 2 failed" in done.stdout
    assert "source-not-found" in done.stdout

    told = invoke("fleet", file)
    assert states(told) == {"one": "done", "late": "failed", "odd": "failed"}
    assert told["summary"] == {"done": 1, "failed": 2}
    assert told["jobs"][2]["error"]["code"] == "invalid-request"

    other = f"{{source: {MODEL}, name: other, recipes: original}}"
    told = invoke("fleet", write(tmp_path, one, other), "--dry-run")
    assert {"fetch", "normalize"} <= set(told["jobs"][1]["cached"])
    assert {step.split("-")[0] for step in told["jobs"][1]["steps"]} == {"convert"}

    two = f"{{source: {MODEL}, name: two, clip-skip: 2}}"  # the normalized folder records it
    file = write(tmp_path, one, two, str(late))
    told = invoke("fleet", file, "--dry-run")
    assert [job["state"] for job in told["jobs"]] == ["done", "new", "failed"]
    assert told["jobs"][1]["cached"] == ["fetch"]
    assert [step.split("-")[0] for step in told["jobs"][1]["steps"]] == ["convert", "normalize"]

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
    assert told["jobs"][0]["line"] == 9
    del fleet


def test_a_faulty_file_is_refused_with_its_lines(tmp_path: Path) -> None:
    file = write(tmp_path, "{source: a, clip-skp: 1}", "{name: b}")
    error = invoke("fleet", file, status=3)["error"]
    assert error["code"] == "invalid-fleet-file"
    assert [line.split(": ")[0] for line in error["message"].splitlines()] == [
        f"{file}:9",
        f"{file}:10",
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


def test_what_is_dropped_is_done_or_put_aside(fleet: LocalFleet) -> None:
    configurations = {
        "original-config": yaml.safe_load((TINY / "sd15" / "config.yaml").read_text()),
        "config": {
            "text_encoder": json.loads((TINY / "sd15" / "text_encoder.config.json").read_text())
        },
    }
    request = {
        "source": MODEL,
        "name": "requested",
        "recipes": [{"name": "small", "components": ["text_encoder"]}],
        **{key.replace("-", "_"): value for key, value in configurations.items()},
    }
    drop("a.job.json", json.dumps(request).encode())
    drop("b.job.json", b'{"source": "x"}')
    drop("c.yaml", yaml.safe_dump({"name": "uploaded", "priority": 9, **configurations}).encode())
    drop("c.safetensors", checkpoint("sd15").read_bytes())

    def ended() -> dict[str, str]:
        jobs = invoke("status")["jobs"]
        return {
            job["name"]: job["state"]
            for job in jobs
            if job["name"] in ("requested", "uploaded") and job["state"] != "running"
        }

    wait_until(lambda: len(ended()) == 2, fleet.log_of(fleet.workers[0]).read_text)
    assert ended() == {"requested": "done", "uploaded": "done"}
    listed = open_client(S3Location(BUCKET)).list_objects_v2(Bucket=BUCKET, Prefix="fleet/")
    keys = [entry["Key"].removeprefix("fleet/") for entry in listed["Contents"]]
    moved = [key for key in keys if key.startswith(("drop", "accepted/", "rejected/"))]
    assert [key.rpartition("/")[2] for key in moved] == [
        *("a.accepted.json", "a.job.json"),
        *("c.accepted.json", "c.safetensors", "c.yaml"),
        *("b.error.json", "b.job.json"),
    ]
