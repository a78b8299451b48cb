"""Forgetting jobs and what was dropped, in a bucket of a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drop_support import Folder
from s3_server import new_bucket
from scripted_fleet import CLOCK, DAY_S, Fleet
from synthetic_stages import STAGES

from corepress.adapters.embedded.bus import MemoryBroker, MemoryBus
from corepress.adapters.s3.store import S3Store
from corepress.domain.errors import InvalidRequest, StoreUnavailable
from corepress.domain.job import JobRequest
from corepress.domain.recipe import Recipe
from corepress.ports.bus import INTAKE
from corepress.ports.store import Store
from corepress.runtime import job_index, jobs, oversight, rebuild
from corepress.runtime.catalogue_page import publications
from corepress.runtime.retention import Forgotten, forget

RECIPE = Recipe("small", components=["text_encoder", "unet"])


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(new_bucket("some/prefix/"), tmp_path)


def forgotten(
    fleet: Fleet,
    jobs_s: float | None = DAY_S,
    drops_s: float | None = DAY_S,
    ahead_s: float = 2 * DAY_S,
    dry_run: bool = False,
    store: Store | None = None,
) -> Forgotten:
    """What is forgotten when so much time has gone by."""
    now_s = fleet.inventory.now_s() + ahead_s
    return forget(
        store or fleet.store,
        fleet.inventory,
        None if jobs_s is None else now_s - jobs_s,
        None if drops_s is None else now_s - drops_s,
        lambda *_: None,
        dry_run,
    )


def failed(fleet: Fleet, name: str = "failed") -> str:
    job = fleet.submit(name, normalize=["permanent"])
    assert fleet.finish(job).errors
    return job


def test_ended_jobs_go_and_others_stay(fleet: Fleet) -> None:
    fleet.finish(fleet.submit("published"))
    job = failed(fleet)
    fleet.submit("open")
    for _ in range(2):
        assert fleet.worker.step(0.0)
    before = fleet.objects()
    assert forgotten(fleet, ahead_s=DAY_S / 2) == Forgotten(0, 0, 0)
    assert forgotten(fleet, None, DAY_S) == Forgotten(0, 0, 0)
    assert forgotten(fleet, dry_run=True) == Forgotten(1, 0, 0)
    assert fleet.objects() == before
    assert forgotten(fleet) == Forgotten(1, 0, 0)
    assert {key for key in before - fleet.objects() if not key.startswith("index/")} == {
        key for key in before if key.startswith(f"jobs/{job}/")
    }
    assert list(job_index.load(fleet.store)) == ["open", "published"]
    with pytest.raises(InvalidRequest, match="no job 'failed'"):
        oversight.status(fleet.store, job)
    assert fleet.finish("open").errors == {}


def test_a_job_that_is_forgotten_can_be_asked_for_again(fleet: Fleet) -> None:
    job = failed(fleet)
    forgotten(fleet)
    fleet.submit(job)
    assert fleet.finish(job).errors == {}
    assert job_index.load(fleet.store)[job].state == "done"


def test_what_was_published_can_be_rebuilt_afterwards(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.finish(fleet.submit("one"))
    forgotten(fleet)
    fleet.upgrade(monkeypatch, coremltools="9.0")
    (entry,) = publications(fleet.store)
    (done,) = rebuild.rebuild_selected(fleet.store, fleet.bus, "unet", [entry])
    assert done.job is not None
    assert fleet.finish(done.job).errors == {}
    assert len(publications(fleet.store)) == 2


def test_entries_in_pages_are_forgotten(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corepress.runtime.job_index._MOST_ENTRIES", 2)
    gone, open_job = failed(fleet), fleet.submit("open")
    job_index.gather(fleet.store)
    assert list(fleet.store.keys("index/entries/")) == []
    assert forgotten(fleet).jobs == 1
    assert list(job_index.load(fleet.store)) == [open_job]
    job_index.write(fleet.store, job_index.ended(gone, 0, JobRequest("x", (), gone), {}, 1.0))
    forgotten(fleet)  # as it is where one gathered at the same moment
    assert list(job_index.load(fleet.store)) == [open_job]


class StoreTriedAgain(S3Store):
    """A store in which, the moment before a job is forgotten, it is told to try again."""

    fleet: Fleet

    def get(self, key: str) -> bytes:
        if key == "jobs/failed/result.json":
            oversight.try_again(self.fleet.store, self.fleet.bus, "failed")
        return super().get(key)


def test_a_job_that_is_tried_again_at_that_moment_stays(fleet: Fleet) -> None:
    job = fleet.submit("failed", normalize=["permanent"])
    assert fleet.finish(job).errors
    store = StoreTriedAgain(fleet.location, fleet.root / "other")
    store.fleet = fleet
    forgotten(fleet, store=store)
    assert fleet.finish(job).errors == {}


class StoreThatDies(S3Store):
    """A store that takes so many deletions."""

    left = 0

    def delete(self, key: str) -> None:
        if not self.left:
            raise StoreUnavailable("gone")
        self.left -= 1
        super().delete(key)


def test_stopped_at_any_point_it_is_finished_next_time(fleet: Fleet) -> None:
    failed(fleet)
    written = {key: fleet.store.get(key) for key in fleet.store.keys("")}
    store = StoreThatDies(fleet.location, fleet.root / "other")
    forgotten(fleet)
    rest = fleet.objects()
    assert job_index.load(fleet.store) == {}
    for deletions in range(len(written.keys() - rest)):
        for key in written.keys() - rest:
            fleet.store.put(key, written[key])
        store.left = deletions
        with pytest.raises(StoreUnavailable):
            forgotten(fleet, store=store)
        forgotten(fleet)
        assert fleet.objects() == rest


# what was dropped


@pytest.fixture
def folder(fleet: Fleet) -> Folder:
    return Folder(fleet.location)


def taken(fleet: Fleet, folder: Folder, **deeds: list[str]) -> str:
    """A checkpoint is dropped, and its job is opened."""
    folder.drop("model.safetensors", b"weights")
    folder.drop("model.yaml", "tags: [dropped]")
    folder.drop("notes.txt", b"what is this")
    folder.worker(MemoryBus(MemoryBroker((*STAGES, INTAKE), CLOCK))).poll()
    (note,) = (key for key in fleet.store.keys("accepted/") if key.endswith("accepted.json"))
    job = str(json.loads(fleet.store.get(note))["job"])
    (source,) = (key for key in fleet.store.keys("accepted/") if key.endswith("safetensors"))
    request = JobRequest(folder.address + source, (RECIPE,), "model")
    return fleet.open(job, request, fleet.script(job, **deeds))


def dropped(fleet: Fleet) -> list[str]:
    return [each for each in fleet.objects() if each.startswith(("accepted/", "rejected/"))]


def test_a_drop_goes_once_its_job_ended_long_ago(fleet: Fleet, folder: Folder) -> None:
    job = taken(fleet, folder)
    (note,) = (each for each in dropped(fleet) if each.endswith("error.json"))
    size_bytes = len(b"what is this") + len(fleet.store.get(note))
    assert forgotten(fleet) == Forgotten(0, 1, size_bytes)
    assert len(dropped(fleet)) == 3  # the rejected one is gone
    fleet.finish(job)
    before = fleet.objects()
    assert forgotten(fleet, DAY_S, None) == Forgotten(0, 0, 0)
    assert forgotten(fleet, ahead_s=DAY_S / 2) == Forgotten(0, 0, 0)
    assert forgotten(fleet, dry_run=True).drops == 1
    assert fleet.objects() == before
    assert forgotten(fleet).drops == 1
    assert dropped(fleet) == []
    assert [entry.name for entry in publications(fleet.store)] == ["model"]


def test_a_drop_that_another_job_needs_stays(fleet: Fleet, folder: Folder) -> None:
    job = taken(fleet, folder)
    fleet.finish(job)
    source = jobs.request_of(fleet.store, job).source
    other = fleet.open("other", JobRequest(source, (RECIPE,), "other"), fleet.script("other"))
    forgotten(fleet)
    assert len(dropped(fleet)) == 3
    fleet.finish(other)
    forgotten(fleet)
    assert dropped(fleet) == []


def test_the_job_of_a_drop_that_stays_is_not_forgotten(fleet: Fleet, folder: Folder) -> None:
    job = taken(fleet, folder, normalize=["permanent"])
    assert fleet.finish(job).errors
    assert forgotten(fleet, DAY_S, 3 * DAY_S).jobs == 0
    assert forgotten(fleet, DAY_S, DAY_S).jobs == 1
    assert dropped(fleet) == []


def test_a_drop_whose_job_is_not_opened_yet_stays(fleet: Fleet, folder: Folder) -> None:
    folder.drop("model.safetensors", b"weights")
    folder.worker(MemoryBus(MemoryBroker((*STAGES, INTAKE), CLOCK))).poll()
    before = dropped(fleet)
    assert len(before) == 2
    assert forgotten(fleet) == Forgotten(0, 0, 0)
    assert dropped(fleet) == before
