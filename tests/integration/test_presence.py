"""Workers that show themselves on a real store, and jobs that need a Mac while there is none."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from runtime_support import SMALL, ShiftedClock
from synthetic_stages import STAGES

from corepress.adapters.embedded.bus import MemoryBroker, MemoryBus
from corepress.adapters.embedded.store import FolderStore
from corepress.cli.worker import WorkerLog
from corepress.config import Settings
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import CompilerUnavailable, StoreUnavailable
from corepress.domain.job import JobRequest
from corepress.fleet import FleetWorker
from corepress.runtime import jobs, presence
from corepress.runtime.jobs import JobResult
from corepress.runtime.oversight import waits_for
from corepress.runtime.presence import LIFETIME_S, is_present, present

LOG = WorkerLog()


class UnwillingStore(FolderStore):
    """A store that takes nothing."""

    def put(self, key: str, data: bytes) -> None:
        raise StoreUnavailable(f"no answer about {key} and {len(data)} bytes")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


def wait_until_present(store: FolderStore, clock: ShiftedClock, stage: str) -> None:
    deadline_s = time.monotonic() + 20
    while not is_present(store, clock, stage):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_worker_is_there_until_it_leaves(store: FolderStore, clock: ShiftedClock) -> None:
    with present(store, clock, "mac-1", ["convert", "compile"]):
        wait_until_present(store, clock, "compile")
        assert is_present(store, clock, "convert")
        assert not is_present(store, clock, "publish")
    assert not is_present(store, clock, "compile")
    assert list(store.keys("workers/")) == []


def test_a_worker_that_lives_is_seen_again_and_again(
    store: FolderStore, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "LIFETIME_S", 0.03)
    with present(store, clock, "mac-1", ["compile"]):
        wait_until_present(store, clock, "compile")
        (key,) = store.keys("workers/")
        first = json.loads(store.get(key))["until_s"]
        deadline_s = time.monotonic() + 20
        while json.loads(store.get(key))["until_s"] <= first:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


def test_a_worker_that_was_killed_is_missed_and_forgotten(
    store: FolderStore, clock: ShiftedClock
) -> None:
    left_behind = {"until_s": clock.now_s() + LIFETIME_S}
    store.put("workers/compile/killed.json", json.dumps(left_behind).encode())
    assert is_present(store, clock, "compile")
    clock.ahead_s = LIFETIME_S + 1
    assert not is_present(store, clock, "compile")
    with present(store, clock, "mac-2", ["compile"]):
        wait_until_present(store, clock, "compile")
        assert list(store.keys("workers/")) == ["workers/compile/mac-2.json"]


def test_work_goes_on_where_the_store_takes_nothing(tmp_path: Path, clock: ShiftedClock) -> None:
    store = UnwillingStore(tmp_path)
    with present(store, clock, "mac-1", ["compile"]):
        assert not is_present(store, clock, "compile")


def test_only_a_job_that_needs_a_mac_waits_for_one(store: FolderStore, clock: ShiftedClock) -> None:
    bus = MemoryBus(MemoryBroker(STAGES, clock))
    for job, wish in (("plain", "never"), ("compiled", "required")):
        request = JobRequest("/models/a.safetensors", (SMALL,), job, compile=wish)
        jobs.submit(store, bus, job, request, {CHECKPOINT: {"uri": request.source}})
    assert waits_for(store, clock, "plain") is None
    assert waits_for(store, clock, "compiled") == "compile"
    with present(store, clock, "mac-1", ["compile"]):
        wait_until_present(store, clock, "compile")
        assert waits_for(store, clock, "compiled") is None
    jobs.finish(store, bus, "compiled", JobResult(builds={}, errors={}))
    assert waits_for(store, clock, "compiled") is None


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac compiles")
def test_a_host_that_cannot_compile_refuses_to_begin(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path, bus="amqp://nowhere.invalid/", store="s3://nowhere")
    with pytest.raises(CompilerUnavailable, match="needs macOS"):
        FleetWorker(settings, ["convert", "compile"], LOG, LOG.say, LOG.trouble)
    FleetWorker(settings, ["convert"], LOG, LOG.say, LOG.trouble)
