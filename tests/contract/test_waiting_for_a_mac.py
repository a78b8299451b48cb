"""What ``corepress status`` says of a job that needs a Mac, from a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from s3_server import new_bucket

from corepress.adapters.embedded.bus import MemoryBroker, MemoryBus
from corepress.adapters.s3.store import S3Store
from corepress.cli.main import main
from corepress.domain.composition import CHECKPOINT
from corepress.domain.job import JobRequest
from corepress.domain.recipe import Recipe
from corepress.ports.clock import SystemClock
from corepress.runtime import jobs

SAYS = "waits for a Mac: no compile worker is connected"


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


def test_status_says_so_until_a_mac_is_there(store: S3Store) -> None:
    clock = SystemClock()
    bus = MemoryBus(MemoryBroker(("fetch", "normalize"), clock))
    request = JobRequest("/a.safetensors", (Recipe("original"),), "a", compile="required")
    jobs.submit(store, bus, "a-job", request, {CHECKPOINT: {"uri": request.source}})
    assert SAYS in status("a-job")
    assert json.loads(status("a-job", "--json"))["waits_for"] == "compile"
    store.put("workers/compile/mac-1.json", json.dumps({"until_s": clock.now_s() + 60}).encode())
    assert SAYS not in status("a-job")
    assert json.loads(status("a-job", "--json"))["waits_for"] is None
