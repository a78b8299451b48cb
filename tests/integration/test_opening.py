"""Jobs whose opener died at some point: whoever opens them again leaves nothing out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from interposed import GatedBus, GatedStore
from runtime_support import SMALL, Machine, stage_process
from test_worker_killed import Fuse, KilledError

from corepress.domain.job import JobRequest
from corepress.runtime import job_events, job_index
from corepress.runtime.stage_process import StageProcess
from corepress_intake.opening import open_job
from corepress_intake.request import Submission

REQUEST = JobRequest("script", (SMALL,), "script", refiner="other script")
FETCHES = {"fetch", "fetch-refiner"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def process(root: Path) -> Iterator[StageProcess]:
    with stage_process(root) as process:
        yield process


@pytest.mark.parametrize("moment", ["before", "after"])
def test_all_first_messages_go_out_and_the_job_is_told_of(
    root: Path, process: StageProcess, moment: str
) -> None:
    """Also where the work that the first message asks for is done before that."""
    number = 0
    while True:
        number += 1
        job = f"job-{moment}-{number}"
        machine = Machine(root, process)
        submission = Submission(job, REQUEST, {})

        def resolve(
            request: JobRequest, job: str = job
        ) -> tuple[JobRequest, Mapping[str, Mapping[str, Any]]]:
            script = {"journal": str(root / f"{job}.journal")}
            source = {"uri": "file:///script", "fingerprint": {}, "script": script}
            return request, dict.fromkeys(request.checkpoints, source)

        fuse = Fuse(number, moment)
        store: Any = GatedStore(machine.store, fuse)
        bus: Any = GatedBus(machine.bus, fuse)
        try:
            open_job(store, bus, submission, resolve)
        except KilledError:
            while machine.worker().step(0.0):
                pass
            open_job(machine.store, machine.bus, submission, resolve)
        worker = machine.worker()
        while worker.step(0.0):
            pass
        assert {node for hook, node, *_ in machine.told.events if hook == "finished"} >= FETCHES
        kinds = [event.kind for event in job_events.history(machine.store, job)]
        assert kinds.count("job.accepted") == 1
        assert job_index.load(machine.store)[job].opened_s is not None
        if not fuse.is_blown:
            break
    assert number > 8  # calls of whoever opens a job
