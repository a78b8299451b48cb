"""The life of a delivery: real store, real bus, real stages in a real process."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from interposed import GatedStore
from runtime_support import QUICK, SMALL, Machine, stage_process
from synthetic_stages import STAGES

from corepress.adapters.embedded.bus import MemoryBus
from corepress.adapters.embedded.store import FolderStore
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import StoreUnavailable
from corepress.domain.recipe import Recipe
from corepress.domain.stage import Task
from corepress.messages.work import Work
from corepress.ports.bus import DeadLetter
from corepress.runtime import jobs, leases, oversight
from corepress.runtime.actions import action_of, load_outputs
from corepress.runtime.dead_letters import redrive
from corepress.runtime.stage_process import StageProcess
from corepress.runtime.worker import Worker

T = TypeVar("T")
CONVERT = ("convert-text_encoder", "convert-unet", "convert-vae_decoder", "convert-vae_encoder")
STEPS = ("fetch", "normalize", "convert-text_encoder")
ALL = Recipe("all")


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


def letters(machine: Machine, job: str) -> list[DeadLetter]:
    return [x for x in machine.bus.dead_letters() if json.loads(x.body)["data"]["job"] == job]


def test_a_job_from_end_to_end(machine: Machine) -> None:
    job = machine.submit(ALL)
    result = machine.finish(job)
    assert result.errors == {}
    models = {f"{c.removeprefix('convert-')}.mlpackage/weight.bin" for c in CONVERT}
    assert machine.bundles(result)["all"].keys() == models
    assert [machine.script(job).runs(step) for step in (*STEPS, *CONVERT)] == [1] * 7
    assert machine.bus.dead_letters() == ()
    figures = ["peak_memory_bytes", "seconds"]
    assert [event[1:] for event in machine.told.of("finished")] == [(False, figures)] * 7
    assert {event[1] for event in machine.told.of("started")} == {1}
    assert machine.told.of("progress") == [("fetch", "fetch", 1, 1, "part")]
    assert list(machine.store.keys("leases/")) == []


def test_a_delivery_that_comes_again_does_no_work_but_publishes_what_follows(
    machine: Machine,
) -> None:
    job = machine.submit()
    machine.worker().step(1)
    assert machine.bus.receive(["normalize"], 1) is not None  # and is lost with its receiver
    machine.broker.put("fetch", machine.message(job, "fetch"), attempt=1)
    result = machine.finish(job)
    assert result.builds.keys() == {"small"}
    assert machine.told.of("finished")[1] == ("fetch", True, [])
    assert [machine.script(job).runs(step) for step in STEPS] == [1, 1, 1]


def test_the_same_work_for_another_job_is_done_once(machine: Machine) -> None:
    first = machine.submit()
    machine.finish(first)
    script = machine.script(first)
    source = json.loads(machine.store.get(f"jobs/{first}/opening.json"))[0]["parameters"][
        CHECKPOINT
    ]
    request = jobs.JobRequest("script", (SMALL, Recipe("same", components=["text_encoder"])), "x")
    jobs.submit(machine.store, machine.bus, "again", request, {CHECKPOINT: source})
    result = machine.finish("again")
    assert result.builds.keys() == {"small", "same"}
    assert [script.runs(step) for step in STEPS] == [1, 1, 1]


def test_a_message_that_comes_twice_and_fails_is_one_dead_letter(machine: Machine) -> None:
    job = machine.submit(normalize=["permanent"] * 4)
    assert machine.worker().step(0.0)
    machine.bus.publish("normalize", machine.message(job, "normalize"))
    machine.finish(job)
    (letter,) = letters(machine, job)
    redrive(machine.store, machine.bus, [letter.id])
    machine.finish(job)
    assert letters(machine, job) == [letter]
    assert machine.script(job).runs("normalize") == 4


def test_a_permanent_error_fails_at_once(machine: Machine) -> None:
    job = machine.submit(normalize=["permanent"])
    result = machine.finish(job)
    assert result.builds == {}
    assert result.errors == {
        "normalize": {
            "code": "corrupt-checkpoint",
            "message": "the header is cut off",
            "hint": "fetch it again",
            "path": "model.bin",
        }
    }
    (letter,) = letters(machine, job)
    assert letter.stage == "normalize"
    assert Work.decode(letter.body).job == job
    assert json.loads(letter.reason) == result.errors["normalize"]
    assert machine.script(job).runs("normalize") == 1
    assert machine.told.of("failed") == [("normalize", "corrupt-checkpoint")]
    assert machine.told.of("retried") == []


def test_a_file_of_any_name_may_be_at_fault(machine: Machine) -> None:
    job = machine.submit(normalize=["permanent of a Latin-1 file"])
    result = machine.finish(job)
    assert result.errors["normalize"]["path"] == r"gr\udcf6\udcdfer.bin"
    (letter,) = letters(machine, job)
    assert json.loads(letter.reason) == result.errors["normalize"]


def test_a_job_fails_with_all_its_reasons(machine: Machine) -> None:
    deeds = {"convert_unet": ["permanent"], "convert_vae_encoder": ["bug"] * 2}
    job = machine.submit(ALL, Recipe("text", components=["text_encoder"]), **deeds)
    result = machine.finish(job)
    reasons = {name.rpartition("-")[0]: error["code"] for name, error in result.errors.items()}
    assert reasons == {
        "convert-unet-512x512": "corrupt-checkpoint",
        "convert-vae_encoder-512x512": "internal-error",
    }
    assert result.builds.keys() == {"text"}  # which needs neither
    steps = jobs.steps(machine.store, job)
    assert steps["publish-all"]["error"] in result.errors.values()
    assert len(letters(machine, job)) == 2


def test_what_the_plan_cannot_give_fails_normalize(machine: Machine) -> None:
    job = machine.submit(replace(SMALL, components=["text_encoder_2"]))
    result = machine.finish(job)
    assert result.errors["normalize"]["code"] == "unsupported-recipe"
    assert [letter.stage for letter in letters(machine, job)] == ["normalize"]
    assert machine.told.of("failed") == [("normalize", "unsupported-recipe")]


def test_a_transient_error_is_tried_again_later(machine: Machine) -> None:
    job = machine.submit(fetch=["transient"] * 3)
    result = machine.finish(job)
    assert result.builds.keys() == {"small"}
    assert machine.script(job).runs("fetch") == 4
    attempts = [(attempt, delay) for _, _, attempt, delay in machine.told.of("retried")]
    assert attempts == [(1, 0.02), (2, 0.02), (3, 0.02)]  # as long as the error asks for
    assert [event for event in machine.told.of("started") if event[0] == "fetch"] == [
        ("fetch", attempt) for attempt in (1, 2, 3, 4)
    ]
    assert letters(machine, job) == []


def test_the_wait_grows(machine: Machine) -> None:
    job = machine.submit(fetch=["transient"] * 5)
    machine.finish(job, machine.worker(policy=replace(QUICK, first_delay_s=0.03)))
    assert [delay for *_, delay in machine.told.of("retried")] == [0.03, 0.06, 0.12, 0.24, 0.48]


@pytest.mark.parametrize(
    ("deed", "code", "runs"),
    [
        ("transient", "source-unavailable", 6),
        ("disk full", "disk-full", 6),
        ("bug", "internal-error", 2),
        ("killed", "internal-error", 2),
    ],
)
def test_patience_ends(machine: Machine, deed: str, code: str, runs: int) -> None:
    job = machine.submit(convert_text_encoder=[deed] * 10)
    result = machine.finish(job)
    (error,) = result.errors.values()
    assert error["code"] == code
    assert machine.script(job).runs("convert-text_encoder") == runs
    (letter,) = letters(machine, job)
    assert json.loads(letter.reason) == error
    if deed == "bug":
        assert "Traceback" in error["message"]


def test_a_kill_costs_one_delivery(machine: Machine) -> None:
    job = machine.submit(normalize=["killed"], convert_text_encoder=["killed as a parent"])
    result = machine.finish(job)
    assert result.builds.keys() == {"small"}
    assert [machine.script(job).runs(step) for step in STEPS] == [1, 2, 2]


class Tally:
    """A gate that counts what passes it, but for what other threads look at now and then."""

    calls = 0

    def through(self, call: Callable[[], T]) -> T:
        self.calls += threading.current_thread() is threading.main_thread()
        return call()


def test_a_step_asks_the_store_for_little(machine: Machine) -> None:
    machine.submit(ALL)
    asked = []
    gate = Tally()
    worker = machine.worker(store=cast("Any", GatedStore(machine.store, gate)))
    for _ in (*STEPS[:2], *CONVERT[:-1]):
        assert worker.step(1)
        asked.append(gate.calls)
        gate.calls = 0
    assert asked == [7, 9, 8, 8, 8]


# leases


def lease_of_another(machine: Machine, job: str) -> str:
    """Another host works on the job's first step."""
    task = Work.decode(machine.message(job, "fetch")).task
    key = action_of(STAGES["fetch"], task).key
    lease = leases.claim(machine.store, machine.clock, key, "another host")
    assert lease is not None
    return lease.key


def test_what_another_works_on_is_come_back_to(machine: Machine) -> None:
    job = machine.submit()
    lease = lease_of_another(machine, job)
    worker = machine.worker()
    for _ in range(10):
        assert worker.step(1)
    assert machine.script(job).runs("fetch") == 0
    machine.store.delete(lease)
    machine.finish(job, worker)
    assert machine.script(job).runs("fetch") == 1
    assert ("fetch", 1) in machine.told.of("started")  # to wait was no attempt


def test_an_expired_lease_is_taken_over(machine: Machine) -> None:
    job = machine.submit()
    lease_of_another(machine, job)
    machine.worker().step(1)
    assert machine.script(job).runs("fetch") == 0
    machine.clock.ahead_s += leases.LIFETIME_S + 1
    machine.finish(job)
    assert machine.script(job).runs("fetch") == 1


# more than one


class TwiceBus(MemoryBus):
    """Delivers everything twice."""

    def publish(self, stage: str, body: bytes, priority: int = 0) -> None:
        super().publish(stage, body, priority)
        super().publish(stage, body, priority)


def test_two_workers_and_everything_delivered_twice(machine: Machine, root: Path) -> None:
    job = machine.submit(ALL, bus=TwiceBus(machine.broker))
    finished = threading.Event()

    def work(name: str) -> None:
        with stage_process(root, name) as process:
            worker = machine.worker(bus=TwiceBus(machine.broker), runner=process)
            while not finished.is_set():
                worker.step(0.01)
                if jobs.result(machine.store, job) and not worker.step(0.1):
                    finished.set()

    with ThreadPoolExecutor(2) as pool:
        for worker in [pool.submit(work, name) for name in ("one", "two")]:
            worker.result()
    result = jobs.result(machine.store, job)
    assert result is not None
    assert result.errors == {}
    assert machine.bundles(result)["all"].keys() == {
        f"{c.removeprefix('convert-')}.mlpackage/weight.bin" for c in CONVERT
    }
    ran = Counter(line.split()[0] for line in machine.script(job).journal.read_text().splitlines())
    assert ran == dict.fromkeys(("fetch", "normalize", *CONVERT), 1)
    assert machine.bus.dead_letters() == ()


class StoreWhereAnotherWasQuicker(FolderStore):
    """A store in which, while a lease is being made, another worker does all of the work."""

    def __init__(self, root: Path, another: Worker) -> None:
        super().__init__(root)
        self._another: Worker | None = another

    def create(self, key: str, data: bytes) -> bool:
        another, self._another = self._another, None
        if another is not None:
            assert key.startswith("leases/")
            assert another.step(1)
        return super().create(key, data)


def test_what_the_last_holder_of_a_lease_left_is_taken(machine: Machine, root: Path) -> None:
    job = machine.submit(bus=TwiceBus(machine.broker))
    store = StoreWhereAnotherWasQuicker(root / "state", machine.worker())
    assert machine.worker(store=store).step(1)
    assert machine.script(job).runs("fetch") == 1
    assert [event[:2] for event in machine.told.of("finished")] == [
        *(("fetch", False), ("fetch", True))
    ]


def test_the_first_outcome_of_a_step_stands(machine: Machine) -> None:
    job = machine.submit(convert_text_encoder=["permanent"])
    failed = machine.finish(job)
    message = machine.message(job, "convert-text_encoder")
    machine.bus.publish("convert", message)
    assert machine.finish(job) == failed  # although it does well by now
    assert machine.script(job).runs("convert-text_encoder") == 2
    assert "error" in jobs.steps(machine.store, job)[Work.decode(message).node]


# messages that nobody can do anything with


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        Work("job", "convert", Task("convert", {})).encode(),
    ],
)
def test_a_wrong_message_is_a_dead_letter(machine: Machine, body: bytes) -> None:
    machine.bus.publish("fetch", body)
    assert machine.worker().step(1)
    (letter,) = machine.bus.dead_letters()
    assert (letter.stage, letter.body) == ("fetch", body)
    assert json.loads(letter.reason)["code"] == "invalid-request"


def test_work_for_no_job_is_a_dead_letter(machine: Machine) -> None:
    job = machine.submit()
    machine.finish(job)
    work = Work.decode(machine.message(job, "fetch"))
    for other in (replace(work, job="nobodys"), replace(work, node="no-such-step")):
        machine.bus.publish("fetch", other.encode())
        assert machine.worker().step(1)
    assert [json.loads(x.reason)["code"] for x in machine.bus.dead_letters()] == [
        *("invalid-request", "invalid-request")
    ]


def test_a_broken_job_does_not_stop_the_worker(machine: Machine) -> None:
    job = machine.submit()
    body = machine.message(job, "fetch")
    machine.store.put(f"jobs/{job}/opening.json", b"not json")
    for _ in range(2):
        assert machine.worker().step(1)
    (letter,) = machine.bus.dead_letters()
    assert letter.body == body
    assert "JSONDecodeError" in json.loads(letter.reason)["message"]


class StoreWithoutSteps(FolderStore):
    """A store that fails where a step is to be recorded."""

    def create(self, key: str, data: bytes) -> bool:
        if "/steps/" in key:
            raise StoreUnavailable("no answer")
        return super().create(key, data)


def test_a_failure_that_cannot_be_recorded_is_not_given_up(machine: Machine, root: Path) -> None:
    job = machine.submit(fetch=["permanent"] * 2)
    bus = MemoryBus(machine.broker)
    with pytest.raises(StoreUnavailable):
        machine.worker(store=StoreWithoutSteps(root / "state"), bus=bus).step(1)
    assert machine.bus.dead_letters() == ()
    bus.close()
    assert machine.finish(job).errors["fetch"]["code"] == "corrupt-checkpoint"
    assert len(machine.bus.dead_letters()) == 1


def test_an_input_that_is_gone_is_no_bug(machine: Machine) -> None:
    job = machine.submit()
    worker = machine.worker()
    worker.step(1)
    action = jobs.steps(machine.store, job)["fetch"]["action"]
    fetched = load_outputs(machine.store, action)
    assert fetched is not None
    for blob in fetched.artifacts["source"].files.values():
        (path,) = (machine.root / "state" / "blobs").rglob(blob.digest.removeprefix("sha256:"))
        path.unlink()
    with pytest.raises(StoreUnavailable):  # nothing can be built on it
        jobs.complete(machine.store, machine.bus, job, "fetch", action)
    result = machine.finish(job, worker)
    assert result.errors["normalize"]["code"] == "store-unavailable"
    assert "start the job again" in result.errors["normalize"]["hint"]


def test_an_input_that_was_never_made_ends_the_job(machine: Machine) -> None:
    job = machine.submit()
    key = jobs.document_key(job, "opening")
    opening = json.loads(machine.store.get(key))
    opening[1]["inputs"]["more"] = ["fetch", "more"]
    machine.store.put(key, json.dumps(opening).encode())
    result = machine.finish(job)
    assert "fetch made no 'more', which normalize needs" in result.errors["normalize"]["message"]
    assert machine.script(job).runs("normalize") == 0


def test_a_step_that_takes_its_workers_down_is_given_up(machine: Machine) -> None:
    job = machine.submit()
    worker = machine.worker(policy=replace(QUICK, most_deaths=2))
    work = Work.decode(machine.message(job, "fetch"))
    key = action_of(STAGES["fetch"], work.task).key
    for owner in ("first", "second"):
        assert leases.claim(machine.store, machine.clock, key, owner) is not None
        machine.clock.ahead_s += leases.LIFETIME_S + 1
    result = machine.finish(job, worker)
    assert result.errors["fetch"]["code"] == "deadly-step"
    assert "2 workers" in result.errors["fetch"]["message"]
    assert machine.script(job).runs("fetch") == 0
    oversight.try_again(machine.store, machine.bus, job)  # it counts from the beginning
    assert machine.finish(job, worker).errors == {}


def test_a_worker_that_is_told_to_stop_hands_its_delivery_back(
    machine: Machine, root: Path
) -> None:
    job = machine.submit(fetch=["hang"])
    with stage_process(root, "stopped") as process, ThreadPoolExecutor(1) as pool:
        worker = machine.worker(runner=process)
        running = pool.submit(worker.step, 1)
        pids = machine.script(job).journal.with_suffix(".pids")
        while not pids.exists():
            assert not running.done()
        worker.stop()
        assert running.result(20)
    assert machine.told.of("retried") == machine.told.of("failed") == []
    assert list(machine.store.keys("leases/")) == []
    assert machine.finish(job).errors == {}
    assert machine.script(job).runs("fetch") == 2
    assert {event[1] for event in machine.told.of("started")} == {1}
