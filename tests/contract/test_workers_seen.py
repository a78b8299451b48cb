"""What can be seen of workers from outside, with a real broker and a real S3 server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from rabbitmq_server import bus_url
from s3_server import new_bucket

from corepress.adapters.s3.store import S3Store
from corepress.cli.main import main
from corepress.domain.artifact import canonical_json
from corepress.domain.job import JobRequest
from corepress.domain.plan import Node
from corepress.domain.recipe import Recipe
from corepress.ports.clock import SystemClock
from corepress.runtime import jobs
from corepress.runtime.presence import present

PATIENCE_S = 60.0


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    location = new_bucket()
    monkeypatch.setenv("COREPRESS_STORE", f"s3://{location.bucket}")
    monkeypatch.setenv("COREPRESS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(location.endpoint))
    monkeypatch.setenv("AWS_DEFAULT_REGION", str(location.region))
    return S3Store(location, tmp_path / "cache")


def status(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["status", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_job_says_that_it_waits_for_a_mac_until_there_is_one(store: S3Store) -> None:
    request = JobRequest("/a.safetensors", (Recipe("original"),), "a", compile="required")
    jobs.write_request(store, "a-job", request)
    opening = [Node("compile-unet", "compile", {}).document()]
    store.create(jobs.document_key("a-job", "opening"), canonical_json(opening))
    says = "waiting for a Mac: no compile worker is connected"
    assert says in status("a-job")
    with present(store, SystemClock(), "mac-1", ["compile", "convert"]):
        deadline_s = time.monotonic() + PATIENCE_S
        while json.loads(status("a-job", "--json"))["no_worker_for"]:
            assert time.monotonic() < deadline_s
        assert says not in status("a-job")
    assert says in status("a-job")


def worker(alive: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "corepress", "worker", "intake", "--alive", alive],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("store")
def test_a_worker_shows_that_it_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREPRESS_BUS", bus_url())
    result = CliRunner().invoke(main, ["topology", "apply"])
    assert result.exit_code == 0, result.output
    alive = tmp_path / "alive"
    with worker(alive) as process:
        deadline_s = time.monotonic() + PATIENCE_S
        while not alive.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.usefixtures("store")
def test_a_worker_without_a_broker_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COREPRESS_BUS", "amqp://127.0.0.1:1/")
    alive = tmp_path / "alive"
    with worker(alive) as process:
        assert process.stderr is not None
        pauses = (line for line in process.stderr if "bus-unavailable" in line)
        for _ in range(5):  # which takes longer than a worker that is well waits to show it
            next(pauses)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert not alive.exists()
