"""A fleet with a real broker, a real object store and several worker processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundle_support import READ, SOURCE, run
from cli_support import corepress, files_below, write_recipe
from fleet_support import (
    Client,
    LocalFleet,
    client_of,
    drop,
    published,
    start_workers,
    wait_until,
    worker_of,
)
from normalize_support import TINY
from process_support import assert_gone

LEASE_S = 4.0
SMALL = {"name": "small", "components": ["text_encoder"]}
TEXT_ENCODER = "convert-text_encoder"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COREPRESS_LEASE_S", str(LEASE_S))
        with LocalFleet(tmp_path_factory.mktemp("fleet") / "local") as fleet:
            for name, value in fleet.environment.items():
                environment.setenv(name, value)
            start_workers(fleet)
            yield fleet


@pytest.fixture
def client(fleet: LocalFleet) -> Iterator[Client]:
    with client_of(fleet) as client:
        yield client


def request(name: str, **more: Any) -> dict[str, Any]:
    """A job of one conversion, which no other job has in common with it."""
    document = {
        "source": str(SOURCE),
        "recipes": [SMALL],
        "name": name,
        "original_config": yaml.safe_load((TINY / "sd15" / "config.yaml").read_text()),
        "config": {
            "text_encoder": json.loads((TINY / "sd15" / "text_encoder.config.json").read_text())
        },
    }
    return document | more


def send(client: Client, document: dict[str, Any]) -> None:
    client.send(json.dumps(document).encode())


def finished(client: Client, job: str) -> dict[str, Any]:
    data: dict[str, Any] = client.wait_for(f"job.finished.{job}")["data"]
    return data


def job_called(client: Client, name: str) -> str:
    accepted = client.wait_for("job.accepted", lambda event: event["data"]["name"] == name)
    return str(accepted["subject"])


def figures(bundle: Mapping[str, bytes]) -> dict[str, Any]:
    """What conversions cost, by model."""
    components = json.loads(bundle["manifest.json"])["components"]
    return {model: facts["psnr_db"] for model, facts in components.items()}


def test_what_is_submitted_in_any_way_is_published_as_run_would(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    components = ["text_encoder", "vae_encoder"]
    recipe = write_recipe(tmp_path, "two", components=components)
    arguments = ["--recipe", recipe, "--name", "tiny", *READ, "--compile", "never"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            corepress, "submit", SOURCE, *arguments, "--watch", "--json", "--tag", "nightly"
        )
        expected = files_below(run(SOURCE, recipe))  # figures are in its manifest
        done = running.result()
    (job,) = done.document["jobs"]
    assert job["state"] == "done"
    bundle = published(job["builds"]["two"])
    assert bundle.keys() == expected.keys()
    assert [path for path in expected if bundle[path] != expected[path]] == []
    assert "convert-vae_encoder" in done.stderr
    (entry,) = corepress("status", "--tag", "nightly", "--json").document["jobs"]
    assert (entry["job"], entry["state"], entry["error"]) == (job["job"], "done", None)
    assert entry["opened"] <= entry["ended"]
    shown = corepress("status", job["job"], "--json").document
    assert shown["steps"] == {"settled": 5, "known": 5}
    kinds = [event["kind"] for event in shown["events"]]
    assert kinds[0] == "job.accepted"
    assert kinds.count("step.finished") == 5
    assert "job.finished" in kinds

    inline = {"name": "two", "components": components}
    options = dict(zip(("original-config", "config"), READ[1::2], strict=True))
    component, _, path = options["config"].partition("=")
    model = {"source": str(SOURCE), "name": "tiny-file", "recipes": ["two"]}
    model |= options | {"config": {component: path}}
    fleet_file = tmp_path / "fleet.yaml"
    fleet_file.write_text(
        yaml.safe_dump({"recipes": {"two": {"components": components}}, "models": [model]})
    )
    with client_of(fleet) as client:
        send(client, request("tiny-message", recipes=[inline]))
        drop("tiny.job.json", json.dumps(request("tiny-drop", recipes=[inline])).encode())
        corepress("fleet", fleet_file)
        jobs = [job_called(client, f"tiny-{way}") for way in ("message", "drop", "file")]
        for job_id in jobs:
            assert finished(client, job_id)["state"] == "done"
    for job_id in jobs:
        versions = corepress("status", job_id, "--json").document["builds"]
        bundle = published(versions["two"])
        assert bundle.keys() == expected.keys()
        resources = [path for path in expected if path.startswith("Resources/")]
        assert [path for path in resources if bundle[path] != expected[path]] == []
        assert figures(bundle) == figures(expected)


def test_a_message_from_any_client_is_one_job(client: Client) -> None:
    document = request("by-message", clip_skip=2)
    for _ in range(2):
        send(client, document)
    job = job_called(client, "by-message")
    outcome = finished(client, job)
    assert (outcome["state"], outcome["builds"]) == ("done", ["small"])
    send(client, document)
    (progress, *_) = client.heard(f"step.progress.{job}")
    assert progress["data"].keys() >= {"node", "stage", "activity", "done", "total", "unit"}
    versions = corepress("status", job, "--json").document["builds"]
    assert "Resources/TextEncoder.mlpackage/Manifest.json" in published(versions["small"])
    assert len(client.heard(f"job.accepted.{job}")) == 1
    runs = [e for e in client.heard("step.finished") if e["subject"] == job]
    assert sum(not event["data"]["cached"] for event in runs) <= 4  # of which some were done before


def test_an_invalid_request_is_answered(client: Client) -> None:
    client.send(json.dumps(request("invalid", precision="fp8")).encode())
    client.send(b"not JSON")
    for field, message in (("precision", "fp8"), ("", "not JSON")):
        rejected = client.wait_for(
            "job.rejected", lambda event, field=field: event["data"]["error"]["path"] == field
        )
        assert rejected["data"]["error"]["code"] == "invalid-request"
        assert message in rejected["data"]["request"]
    letters = corepress("dead-letters", "list", "--json").document["dead_letters"]
    wrong = next(letter for letter in letters if letter["error"]["path"] == "precision")
    shown = corepress("dead-letters", "show", wrong["id"], "--json").document
    assert shown["message"]["name"] == "invalid"
    assert shown["stage"] == "intake"
    assert "precision" in corepress("dead-letters", "list").stdout


def test_a_job_whose_source_is_missing_goes_on_when_it_is_there(
    client: Client, tmp_path: Path
) -> None:
    source = tmp_path / "late.safetensors"
    done = corepress(
        "submit", source, "--recipe", "original", "--name", "late", "--watch", "--json", status=3
    )
    assert done.document["error"]["code"] == "source-not-found"
    job = done.document["jobs"][0]["job"]
    assert client.wait_for(f"job.rejected.{job}")["data"]["error"]["code"] == "source-not-found"
    source.write_bytes(b"no checkpoint at all")
    letters = corepress("dead-letters", "list", "--json").document["dead_letters"]
    letter = next(letter for letter in letters if letter["error"]["path"] == str(source))
    corepress("dead-letters", "redrive", letter["id"])
    client.wait_for(f"job.accepted.{job}")
    second = client.wait_for("job.finished", lambda event: "fetch" in event["data"]["errors"])
    assert second["data"]["errors"]["fetch"]["code"] == "corrupt-checkpoint"
    shown = corepress("status", job, "--json").document
    assert (shown["state"], shown["errors"].keys()) == ("failed", {"fetch"})
    (again,) = (
        letter
        for letter in corepress("dead-letters", "list", "--json").document["dead_letters"]
        if letter["job"] == job
    )
    assert again["error"]["code"] == "corrupt-checkpoint"


def test_a_cancelled_job_is_stopped_while_it_runs(client: Client) -> None:
    send(client, request("cancelled", recipes=[{"name": "slow", "components": ["unet"]}]))
    job = job_called(client, "cancelled")
    started = client.wait_for(
        f"step.started.{job}", lambda event: event["data"]["stage"] == "convert"
    )
    (stage_process,) = worker_of(started).children()
    assert corepress("cancel", job, "--json").document["cancelled"]
    assert_gone([stage_process])
    assert finished(client, job)["state"] == "cancelled"
    assert corepress("status", job, "--json").document["state"] == "cancelled"
    assert not corepress("cancel", job, "--json").document["cancelled"]
    letters = corepress("dead-letters", "list", "--json").document["dead_letters"]
    assert job not in {letter["job"] for letter in letters}


def test_workers_and_broker_may_be_killed(fleet: LocalFleet, client: Client) -> None:
    send(client, request("killed", recipes=[SMALL | {"precision": {"default": "float32"}}]))
    job = job_called(client, "killed")
    started = client.wait_for(
        f"step.started.{job}", lambda event: event["data"]["node"].startswith(TEXT_ENCODER)
    )
    victim = worker_of(started)
    family = victim.children(recursive=True)
    victim.kill()
    assert_gone([victim, *family])
    client.wait_for(
        f"step.started.{job}",
        lambda event: (
            event["data"]["node"] == started["data"]["node"]
            and event["data"]["worker"] != started["data"]["worker"]
        ),
    )
    fleet.broker.kill()
    fleet.broker.start()
    done = corepress("watch", job, "--json").document["jobs"][0]
    assert done["state"] == "done"
    bundle = published(done["builds"]["small"])
    assert json.loads(bundle["manifest.json"])["components"].keys() == {"text_encoder"}
    with client_of(fleet) as other:  # the workers are there again, too
        send(other, request("after", clip_skip=1))
        assert finished(other, job_called(other, "after"))["state"] == "done"


def test_a_worker_that_is_told_to_stop_ends_in_time(fleet: LocalFleet) -> None:
    lone = fleet.add_worker("convert")
    log = fleet.log_of(lone)
    wait_until(lambda: "at work" in log.read_text(), log.read_text)
    lone.send_signal(signal.SIGTERM)
    assert lone.wait(20) == 0
    assert log.read_text().endswith("worker: stopped\n")
