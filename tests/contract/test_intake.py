"""Intake on a real broker: requests, and what the broker gives up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rabbitmq_server import bus_url, set_up_anew

from corepress.adapters.embedded.store import FolderStore
from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.listener import Listen, listening
from corepress.adapters.rabbitmq.topology import topology
from corepress.domain.errors import BusUnavailable, SourceNotFound, SourceUnavailable
from corepress.domain.job import JobRequest
from corepress.messages.events import Event
from corepress.messages.work import Work
from corepress.ports.bus import INTAKE
from corepress.ports.clock import SystemClock
from corepress.runtime import job_events, job_index, jobs
from corepress.runtime.oversight import status
from corepress.runtime.worker import RetryPolicy
from corepress_intake.worker import IntakeWorker

STAGES = (INTAKE, "fetch", "normalize", "convert", "publish")
REQUEST = {"source": "hf://owner/some-model", "recipes": ["original"], "priority": 6}


@pytest.fixture
def broker() -> str:
    """The address of one without messages."""
    link = Link(bus_url(), "tests")
    set_up_anew(link, topology(STAGES, delays_s=(1,)))
    link.close()
    return bus_url()


@pytest.fixture
def listen(broker: str) -> Iterator[Listen]:
    """What is announced from the beginning of a test."""
    ears = Link(broker, "ears")
    with listening(ears, ["job.#"]) as listen:
        yield listen
    ears.close()


class Intake:
    """A worker whose sources are what a test says."""

    def __init__(self, store: FolderStore, broker: str) -> None:
        self.store = store
        self.bus = RabbitBus(broker)
        self.outcomes: list[Exception | dict[str, Any]] = []
        policy = RetryPolicy(transient_attempts=2)
        self._worker = IntakeWorker(
            store, self.bus, SystemClock(), self._resolve, None, lambda *_: None, policy
        )

    def step(self) -> None:
        assert self._worker.step(30.0)

    def _resolve(self, request: JobRequest) -> tuple[JobRequest, Mapping[str, Mapping[str, Any]]]:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return request, {"source": {"uri": request.source, **outcome}}


@pytest.fixture
def intake(broker: str, tmp_path: Path) -> Iterator[Intake]:
    intake = Intake(FolderStore(tmp_path), broker)
    yield intake
    intake.bus.close()


def heard(listen: Listen) -> Event:
    deadline_s = time.monotonic() + 30.0
    while (body := listen(1.0)) is None:
        assert time.monotonic() < deadline_s
    return Event.decode(body)


def send(intake: Intake, document: Any) -> None:
    intake.bus.publish(INTAKE, json.dumps(document).encode())


def test_a_request_becomes_a_job_with_its_priority(intake: Intake, listen: Listen) -> None:
    intake.outcomes = [{"fingerprint": {}}]
    for _ in range(2):
        send(intake, REQUEST)
        intake.step()
    event = heard(listen)
    told = {"name": "some-model", "source": "hf://owner/some-model", "tags": []}
    assert (event.kind, event.data) == ("job.accepted", told)
    first = intake.bus.receive(["fetch"], 30.0)
    assert first is not None
    work = Work.decode(first.body)
    assert (work.job, work.node, work.priority) == (event.job, "fetch", 6)
    assert job_index.load(intake.store).keys() == {event.job}
    assert [each.kind for each in job_events.history(intake.store, event.job)] == ["job.accepted"]
    assert not intake.bus.dead_letters()


def test_a_source_that_is_away_is_asked_again(intake: Intake, listen: Listen) -> None:
    intake.outcomes = [SourceUnavailable("no answer"), {"fingerprint": {}}]
    send(intake, REQUEST)
    intake.step()
    intake.step()
    assert heard(listen).kind == "job.accepted"


def test_a_request_that_stays_wrong_is_rejected(intake: Intake, listen: Listen) -> None:
    codes = {}
    away, gone = SourceUnavailable("no answer"), SourceNotFound("nothing is there")
    for number, outcomes in enumerate(([away, away], [gone])):
        intake.outcomes = list(outcomes)
        send(intake, REQUEST | {"id": str(number)})
        for _ in outcomes:
            intake.step()
        assert heard(listen).kind == "job.finished"
        event = heard(listen)
        assert event.kind == "job.rejected"
        assert json.loads(event.data["request"])["source"] == REQUEST["source"]
        codes[event.data["error"]["code"]] = event.job
    assert codes.keys() == {"source-unavailable", "source-not-found"}
    for code, job in codes.items():
        assert status(intake.store, job).errors[INTAKE]["code"] == code
        assert job_index.load(intake.store)[job].error[0] == code  # type: ignore[index]
    letters = intake.bus.dead_letters()
    assert {json.loads(letter.reason)["code"] for letter in letters} == codes.keys()
    assert {letter.stage for letter in letters} == {INTAKE}


def kill_receivers(broker: str, stage: str) -> None:
    """Take a message until the broker gives it up; every receiver vanishes with it."""
    for _ in range(17):
        victim = RabbitBus(broker)
        assert victim.receive([stage], 30.0) is not None
        connection: Any = victim._link._connection
        connection._impl._transport._sock.shutdown(2)
        with pytest.raises(BusUnavailable):
            victim.receive([stage], 5.0)
        victim.close()


def test_a_job_learns_that_its_message_was_given_up(
    broker: str, intake: Intake, listen: Listen
) -> None:
    intake.outcomes = [{"fingerprint": {}}]
    send(intake, REQUEST)
    intake.step()
    job = heard(listen).job
    kill_receivers(broker, "fetch")
    intake.step()
    finished = heard(listen)
    assert (finished.kind, finished.data["state"]) == ("job.finished", "failed")
    outcome = jobs.result(intake.store, job)
    assert outcome is not None
    assert outcome.errors["fetch"]["code"] == "deadly-step"
    (letter,) = intake.bus.dead_letters()
    assert letter.stage == "fetch"
    assert json.loads(letter.reason) == outcome.errors["fetch"]


def test_a_request_that_was_given_up_is_rejected(
    broker: str, intake: Intake, listen: Listen
) -> None:
    send(intake, REQUEST)
    kill_receivers(broker, INTAKE)
    intake.step()
    assert heard(listen).data["error"]["code"] == "deadly-step"
    (letter,) = intake.bus.dead_letters()
    assert letter.stage == INTAKE


def test_a_message_of_a_job_that_is_gone_is_given_up_too(broker: str, intake: Intake) -> None:
    intake.outcomes = [{"fingerprint": {}}]
    send(intake, REQUEST)
    intake.step()
    for key in list(intake.store.keys("jobs/")):
        intake.store.delete(key)
    kill_receivers(broker, "fetch")
    intake.step()
    assert [letter.stage for letter in intake.bus.dead_letters()] == ["fetch"]
