"""The index of jobs: writers lose nothing, whoever gathers meanwhile, and reading is cheap."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corepress.adapters.embedded.store import FolderStore
from corepress.domain.errors import Cancelled, CorruptCheckpoint
from corepress.domain.job import JobRequest
from corepress.domain.recipe import Recipe
from corepress.runtime import job_index
from corepress.runtime.job_index import Entry

REQUEST = JobRequest("hf://owner/repo", (Recipe("one"), Recipe("two")), "repo", tags=("nightly",))
BROKEN = {"fetch": CorruptCheckpoint("cut off").document()}


class CountingStore(FolderStore):
    """Counts what it is asked to read."""

    reads = 0

    def get(self, key: str) -> bytes:
        self.reads += 1
        return super().get(key)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path)


def opened(number: int, generation: int = 0, at_s: float = 1.0) -> Entry:
    return job_index.opened(f"job-{number:05d}", generation, REQUEST, at_s)


def ended(number: int, generation: int = 0) -> Entry:
    return job_index.ended(f"job-{number:05d}", generation, REQUEST, {}, 2.0)


def test_the_latest_of_a_job_holds(store: CountingStore) -> None:
    assert job_index.load(store) == {}
    failed = job_index.ended("job-00001", 0, REQUEST, BROKEN, 2.0)
    for entry in (failed, opened(1), opened(2)):
        job_index.write(store, entry)
    found = job_index.load(store)
    assert list(found) == ["job-00001", "job-00002"]
    first = found["job-00001"]
    assert (first.state, first.error) == ("failed", ("corrupt-checkpoint", "cut off"))
    assert (first.opened_s, first.ended_s) == (1.0, 2.0)
    assert (first.name, first.recipes, first.tags) == ("repo", ("one", "two"), ("nightly",))
    job_index.write(store, opened(1, generation=1, at_s=3.0))
    again = job_index.load(store)["job-00001"]
    assert (again.state, again.error, again.opened_s) == ("running", None, 1.0)
    job_index.write(store, failed)  # by a worker that is late
    assert job_index.load(store)["job-00001"].state == "running"


def test_states() -> None:
    cancelled = {"fetch": Cancelled("cancelled").document()}
    assert job_index.state_of({}) == "done"
    assert job_index.state_of(BROKEN) == "failed"
    assert job_index.state_of(BROKEN | cancelled) == "cancelled"


def test_many_jobs_take_few_reads(store: CountingStore) -> None:
    for number in range(1000):
        job_index.write(store, opened(number))
        if number % 2:
            job_index.write(store, ended(number))
        if number % 100 == 0:
            job_index.gather(store)
    before = store.reads
    found = job_index.load(store)
    assert len(found) == 1000
    assert sum(entry.state == "done" for entry in found.values()) == 500
    assert store.reads - before <= 256 + 150 + 8
    job_index.gather(store)
    before = store.reads
    assert job_index.load(store) == found
    assert store.reads - before <= 8


def test_nothing_is_lost_while_several_gather(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_index, "_MOST_ENTRIES", 4)
    monkeypatch.setattr(job_index, "_MOST_PAGES", 3)
    jobs, writers = 120, 3
    written: list[str] = []
    over = threading.Event()

    def write(writer: int) -> None:
        store = FolderStore(tmp_path)
        for number in range(writer, jobs, writers):
            job_index.write(store, opened(number))
            job_index.write(store, ended(number))
            written.append(opened(number).job)

    def gather() -> None:
        store = FolderStore(tmp_path)
        while not over.is_set():
            job_index.gather(store)

    def read() -> None:
        store = FolderStore(tmp_path)
        while not over.is_set():
            sure = set(written)
            found = job_index.load(store)
            assert sure <= found.keys()
            assert {found[job].state for job in sure} <= {"done"}

    with ThreadPoolExecutor(8) as pool:
        gathering = [pool.submit(gather) for _ in range(2)] + [pool.submit(read)]
        try:
            for writing in [pool.submit(write, writer) for writer in range(writers)]:
                writing.result()
        finally:
            over.set()
        for each in gathering:
            each.result()
    found = job_index.load(FolderStore(tmp_path))
    assert {entry.state for entry in found.values()} == {"done"}
    assert len(found) == jobs
