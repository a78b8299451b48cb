"""Jobs that are looked after: their state, their events, cancelling, trying again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runtime_support import SMALL, Machine, Recorder, stage_process

from corepress.adapters.embedded.bus import MemoryBus
from corepress.adapters.embedded.store import FolderStore
from corepress.domain.errors import InvalidRequest, SourceNotFound
from corepress.domain.job import JobRequest
from corepress.messages.events import Event
from corepress.messages.work import Work
from corepress.ports.telemetry import NodeRef
from corepress.runtime import dead_letters, job_events, job_index, jobs, oversight, presence
from corepress.runtime.job_events import EventTelemetry
from corepress.runtime.oversight import status
from corepress.runtime.presence import present, stages_with_workers
from corepress.runtime.stage_process import StageProcess
from corepress_intake.opening import open_job
from corepress_intake.request import Submission


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def process(root: Path) -> Iterator[StageProcess]:
    with stage_process(root) as process:
        yield process


@pytest.fixture
def machine(root: Path, process: StageProcess) -> Machine:
    return Machine(root, process)


def indexed(machine: Machine, job: str) -> tuple[str, int]:
    entry = job_index.load(machine.store)[job]
    return entry.state, entry.generation


def kinds(machine: Machine, job: str) -> list[str]:
    return [event.kind for event in job_events.history(machine.store, job)]


def test_a_job_that_is_done(machine: Machine) -> None:
    job = machine.submit()
    now = status(machine.store, job)
    assert (now.state, now.settled, now.nodes, now.builds) == ("running", 0, 2, {})
    assert indexed(machine, job) == ("running", 0)
    machine.finish(job)
    now = status(machine.store, job)
    assert (now.state, now.settled, now.nodes, now.errors) == ("done", 4, 4, {})
    assert now.builds.keys() == {"small"}
    assert indexed(machine, job) == ("done", 0)
    assert kinds(machine, job) == ["job.accepted", "job.finished"]


def test_no_such_job(machine: Machine) -> None:
    for ask in (
        lambda: status(machine.store, "none"),
        lambda: oversight.cancel(machine.store, machine.bus, "none"),
        lambda: oversight.try_again(machine.store, machine.bus, "none"),
    ):
        with pytest.raises(InvalidRequest, match="no job 'none'"):
            ask()


def test_a_waiting_job_is_cancelled_at_once(machine: Machine) -> None:
    job = machine.submit()
    assert oversight.cancel(machine.store, machine.bus, job)
    assert status(machine.store, job).state == "cancelled"
    assert indexed(machine, job) == ("cancelled", 0)
    machine.finish(job)
    assert machine.script(job).runs("fetch") == 0
    assert machine.bus.dead_letters() == ()
    assert not oversight.cancel(machine.store, machine.bus, job)


def test_a_running_step_is_stopped(machine: Machine, root: Path) -> None:
    job = machine.submit(normalize=["hang"])
    with stage_process(root, "cancelled") as process, ThreadPoolExecutor(1) as pool:
        worker = machine.worker(runner=process)
        worker.step(1)
        running = pool.submit(worker.step, 1)
        while not machine.script(job).runs("normalize"):
            assert not running.done()
        oversight.cancel(machine.store, machine.bus, job)
        assert running.result(30)
    assert status(machine.store, job).state == "cancelled"
    assert machine.told.of("failed") == [("normalize", "cancelled")]
    oversight.try_again(machine.store, machine.bus, job)
    assert indexed(machine, job) == ("running", 1)
    assert machine.finish(job).errors == {}
    assert indexed(machine, job) == ("done", 1)
    assert machine.script(job).runs("fetch") == 1


def test_a_redriven_letter_takes_its_job_with_it(machine: Machine) -> None:
    deeds = {"convert_unet": ["permanent"], "convert_vae_decoder": ["permanent"]}
    recipe = JobRequest("x", (SMALL,), "x").recipes[0]
    both = type(recipe)("both", components=["unet", "vae_decoder"])
    job = machine.submit(both, **deeds)
    other = machine.submit(normalize=["permanent"])
    machine.finish(job)
    machine.finish(other)
    letters = machine.bus.dead_letters()
    assert sorted(filter(None, map(dead_letters.job_of, letters))) == sorted([job, job, other])
    chosen = next(letter for letter in letters if dead_letters.job_of(letter) == job)
    sent = dead_letters.redrive(machine.store, machine.bus, [chosen.id])
    assert [dead_letters.job_of(letter) for letter in sent] == [job, job]
    assert machine.finish(job).builds.keys() == {"both"}
    assert [machine.script(job).runs(step) for step in ("convert-unet", "fetch")] == [2, 1]
    (left,) = machine.bus.dead_letters()
    assert dead_letters.job_of(left) == other
    with pytest.raises(InvalidRequest, match="no dead letter none"):
        dead_letters.redrive(machine.store, machine.bus, ["none"])
    dead_letters.redrive(machine.store, machine.bus, None)
    assert machine.finish(other).errors == {}
    assert machine.bus.dead_letters() == ()


def test_a_letter_of_a_job_that_is_gone_is_sent_all_the_same(machine: Machine) -> None:
    job = machine.submit(fetch=["permanent", "permanent"])
    machine.finish(job)
    for key in list(machine.store.keys(f"jobs/{job}/")):
        machine.store.delete(key)
    assert len(dead_letters.redrive(machine.store, machine.bus, None)) == 1
    while machine.worker().step(0.0):
        pass
    (letter,) = machine.bus.dead_letters()
    assert json.loads(letter.reason)["code"] == "corrupt-checkpoint"


# intake


def opening(machine: Machine, journal: str) -> Submission:
    machine.script(journal)
    return Submission.of(JobRequest("script", (SMALL,), "script"), journal)


def test_a_submission_is_opened_once_wherever_it_was_left(machine: Machine, root: Path) -> None:
    submission = opening(machine, "opened")
    source = {"script": {"journal": str(root / "opened.journal")}}
    resolve = {"source": source}
    assert open_job(machine.store, machine.bus, submission, lambda asked: (asked, resolve))
    assert not open_job(machine.store, machine.bus, submission, lambda asked: (asked, resolve))
    sent = [Work.decode(body) for body in machine.bus.sent]
    assert [work.node for work in sent] == ["fetch", "fetch"]  # who sent the first may have died
    machine.finish(submission.job)
    assert not open_job(machine.store, machine.bus, submission, lambda asked: (asked, resolve))
    assert not machine.worker().step(0.0)
    assert machine.script("opened").runs("fetch") == 1


def test_a_refused_submission_may_be_opened_after_all(machine: Machine, root: Path) -> None:
    submission = opening(machine, "refused")
    request = submission.request
    error = SourceNotFound("nothing is there")
    oversight.refuse(machine.store, machine.bus, submission.job, request, error)
    now = status(machine.store, submission.job)
    assert (now.state, now.nodes, now.errors.keys()) == ("failed", 0, {"intake"})
    assert indexed(machine, submission.job) == ("failed", 0)
    source = {"script": {"journal": str(root / "refused.journal")}}
    assert open_job(
        machine.store, machine.bus, submission, lambda asked: (asked, {"source": source})
    )
    assert machine.finish(submission.job).errors == {}
    assert indexed(machine, submission.job) == ("done", 1)


def test_sources_that_change_meanwhile_change_no_job(machine: Machine, root: Path) -> None:
    """As when two take the same request in, or one died over it."""
    submission = opening(machine, "moving")
    request = replace(submission.request, source="script@1")
    jobs.settle_request(machine.store, submission.job, request)

    def resolve(asked: JobRequest) -> tuple[JobRequest, dict[str, dict[str, Any]]]:
        pinned = asked if "@" in asked.source else replace(asked, source=f"{asked.source}@2")
        script = {"journal": str(root / "moving.journal")}
        return pinned, {"source": {"script": script, "uri": pinned.source}}

    assert open_job(machine.store, machine.bus, submission, resolve)
    assert jobs.request_of(machine.store, submission.job).source == "script@1"
    work = Work.decode(machine.message(submission.job, "fetch"))
    assert work.task.parameters["source"]["uri"] == "script@1"


# events


class Heard(MemoryBus):
    """Keeps what was announced."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.broker)
        self.events: list[tuple[str, Event]] = []

    def announce(self, topic: str, body: bytes) -> None:
        self.events.append((topic, Event.decode(body)))


def test_events_are_told_kept_and_gathered(machine: Machine) -> None:
    bus = Heard(machine)
    then = Recorder()
    told = EventTelemetry(machine.store, lambda: bus, machine.clock, "host-1", then)
    fetch = NodeRef("events", "fetch", "fetch", 1)
    told.started(fetch)
    for done in range(0, 101, 10):
        told.progress(fetch, "download", done, 100, "B")
    told.finished(fetch, False, {"seconds": 1.0, "peak_memory_bytes": 2})
    told.retried(fetch, {"code": "source-unavailable"}, 2.0)
    told.failed(NodeRef("events", "normalize", "normalize", 2), {"code": "corrupt-checkpoint"})
    told.close()
    topics = [topic for topic, _ in bus.events]
    assert topics[0] == "step.started.events"
    progress = [event for topic, event in bus.events if topic == "step.progress.events"]
    assert [event.data["done"] for event in progress] == [0, 100]
    assert progress[0].data == {
        **{"node": "fetch", "stage": "fetch", "attempt": 1, "worker": "host-1"},
        **{"activity": "download", "done": 0, "total": 100, "unit": "B", "eta_s": None},
    }
    assert len(then.of("progress")) == 11
    kept = job_events.history(machine.store, "events")
    assert [event.kind for event in kept] == [
        "step.started",
        "step.finished",
        "step.retried",
        "step.failed",
    ]
    (page,) = machine.store.keys("jobs/events/events/")
    assert "page-" in page
    job_events.record(machine.store, Event("job.finished", "events", kept[-1].at_s + 1, {}))
    job_events.gather(machine.store, "events")
    assert len(list(machine.store.keys("jobs/events/events/"))) == 1
    assert [event.kind for event in job_events.history(machine.store, "events")][-1:] == [
        "job.finished"
    ]


def test_events_are_gathered_by_several_at_once(machine: Machine, root: Path) -> None:
    events = [Event("step.started", "busy", float(n), {"n": n}) for n in range(40)]
    for event in events:
        job_events.record(machine.store, event)

    def gather(_: int) -> None:
        job_events.gather(FolderStore(root / "state"), "busy")

    with ThreadPoolExecutor(4) as pool:
        gathering = [pool.submit(gather, number) for number in range(4)]
        while not all(each.done() for each in gathering):
            assert job_events.history(machine.store, "busy") == events
    assert job_events.history(machine.store, "busy") == events
    assert jobs.result(machine.store, "busy") is None


# workers


def test_a_job_tells_what_it_waits_for(machine: Machine) -> None:
    job = machine.submit()
    assert oversight.waiting_stages(machine.store, job) == {"fetch"}
    machine.worker().step(1)
    assert oversight.waiting_stages(machine.store, job) == {"normalize"}
    assert stages_with_workers(machine.store, machine.clock) == set()
    with present(machine.store, machine.clock, "one", ["fetch", "normalize"]):
        while not list(machine.store.keys("workers/")):
            pass
        assert stages_with_workers(machine.store, machine.clock) == {"fetch", "normalize"}
        machine.clock.ahead_s += presence.LIFETIME_S + 1  # and nothing was heard of it since
        assert stages_with_workers(machine.store, machine.clock) == set()
    assert list(machine.store.keys("workers/")) == []
