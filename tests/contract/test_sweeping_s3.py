"""Clearing up a bucket of a real server, with jobs that are published, at work, and failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from publishing_support import kept
from s3_server import new_bucket
from scripted_fleet import CLOCK, DAY_S, Fleet

from corepress.adapters.s3.client import open_client
from corepress.adapters.s3.store import S3Store
from corepress.domain.artifact import Digest
from corepress.ports.store import DocumentNotFound
from corepress.runtime import jobs, leases
from corepress.runtime.actions import load_outputs
from corepress.runtime.catalogue_page import publications


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(new_bucket("some/prefix/"), tmp_path)


def test_what_is_published_stays_and_what_came_to_nothing_goes(fleet: Fleet) -> None:
    fleet.finish(fleet.submit("published"))
    assert fleet.finish(fleet.submit("failed", normalize=["permanent"])).errors
    (entry,) = publications(fleet.store)
    (lost,) = fleet.actions("failed")
    orphan = kept(fleet.store, b"nobody's")
    before = {key for key in fleet.objects() if key.startswith(("published/", "catalogue"))}
    swept = fleet.sweep()
    # the script and the orphan; and the step that published, of which the manifest was copied
    assert (swept.actions, swept.blobs) == (2, 3)
    assert load_outputs(fleet.store, lost) is None
    assert not fleet.store.has(orphan)
    assert len(entry.steps) == 4
    assert all(load_outputs(fleet.store, action) for action in entry.steps.values())
    assert before <= fleet.objects()
    assert fleet.sweep().blobs == 0


def test_a_dry_run_changes_nothing(fleet: Fleet) -> None:
    fleet.finish(fleet.submit("failed", normalize=["permanent"]))
    leases.claim(fleet.store, CLOCK, "action", "dead")
    before = fleet.objects()
    told = fleet.sweep(dry_run=True)
    assert fleet.objects() == before
    assert fleet.sweep() == told
    assert (told.actions, told.blobs, told.leases) == (1, 1, 1)


def test_nothing_young_is_swept(fleet: Fleet) -> None:
    fleet.finish(fleet.submit("failed", normalize=["permanent"]))
    kept(fleet.store, b"uploaded, not committed yet")
    leases.claim(fleet.store, CLOCK, "action", "alive")
    before = fleet.objects()
    swept = fleet.sweep(ahead_s=DAY_S / 2)
    assert fleet.objects() == before
    assert (swept.actions, swept.blobs, swept.leases, swept.left_over) == (0, 0, 0, 0)


def test_uploads_that_nobody_finished_are_aborted(fleet: Fleet) -> None:
    client, bucket = open_client(fleet.location), fleet.location.bucket
    key = f"{fleet.location.prefix}blobs/sha256/aa/aa"
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"half")
    client.put_object(Bucket=bucket, Key=f"{fleet.location.prefix}uploads/1", Body=b"whole")
    elsewhere = client.create_multipart_upload(Bucket=bucket, Key="elsewhere")["UploadId"]
    assert fleet.sweep(ahead_s=DAY_S / 2).left_over == 0
    assert fleet.sweep().left_over == 2
    (left,) = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert left["UploadId"] == elsewhere
    assert "uploads/1" not in fleet.objects()


def test_swept_after_every_step_a_job_comes_to_its_end(fleet: Fleet) -> None:
    """With no grace at all, unfinished jobs' steps are named and what they made stays."""
    job = fleet.submit("at-work")
    result = fleet.finish(job, between=lambda: fleet.sweep(ahead_s=1.0, grace_s=0.0))
    assert result.errors == {}
    assert sorted(fleet.runs(job)) == ["convert-text_encoder", "convert-unet", "fetch", "normalize"]
    assert [entry.name for entry in publications(fleet.store)] == ["at-work"]


@pytest.fixture
def _noticing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each use of a blob is noted at once."""
    monkeypatch.setattr("corepress.adapters.s3.store._NOTED_EVERY_S", 0.0)


@pytest.mark.usefixtures("_noticing")
def test_what_was_used_lately_stays(fleet: Fleet) -> None:
    fleet.finish(fleet.submit("failed", normalize=["permanent"]))
    (action,) = fleet.actions("failed")
    for _ in range(2):
        assert load_outputs(fleet.store, action)
        used_s = max(use.used_s for use in fleet.inventory.documents("uses/"))
        now_s = fleet.inventory.now_s()
        ahead_s = used_s - now_s + 10.0
        assert fleet.sweep(ahead_s=ahead_s, grace_s=11.0).actions == 0
    assert fleet.sweep(ahead_s=ahead_s, grace_s=9.0).actions == 1


class StoreInUse(S3Store):
    """A store in which, the moment before an action is forgotten, somebody finds it done."""

    def delete(self, key: str) -> None:
        if key.startswith("actions/"):
            found = load_outputs(self, key.removeprefix("actions/").removesuffix(".json"))
            assert found is not None
        super().delete(key)


@pytest.mark.usefixtures("_noticing")
def test_what_is_found_at_that_moment_is_put_back(fleet: Fleet) -> None:
    fleet.finish(fleet.submit("failed", normalize=["permanent"]))
    (action,) = fleet.actions("failed")
    outputs = load_outputs(fleet.store, action)
    ahead_s = 0.0  # uses are noted by the server's clock
    swept = fleet.sweep(ahead_s, 0.0, store=StoreInUse(fleet.location, fleet.root / "other"))
    assert (swept.actions, swept.blobs) == (0, 0)
    assert load_outputs(fleet.store, action) == outputs


def test_what_is_named_at_that_moment_is_put_back(fleet: Fleet) -> None:
    fleet.finish(fleet.submit("failed", normalize=["permanent"]))
    (action,) = fleet.actions("failed")

    def wait(_: float) -> None:
        with pytest.raises(DocumentNotFound):
            fleet.store.get(f"actions/{action}.json")
        fleet.store.create(
            jobs.document_key("other", "steps/fetch"), b'{"action": "%s"}' % action.encode()
        )

    assert fleet.sweep(wait=wait).actions == 0
    assert load_outputs(fleet.store, action)


def test_a_use_is_noted_once_an_hour_and_only_of_what_is_old(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = kept(fleet.store, b"weights")
    assert fleet.store.has(blob)
    assert list(fleet.inventory.documents("uses/")) == []
    monkeypatch.setattr("corepress.adapters.s3.store.age_s", lambda _: 2 * 3600.0)
    assert fleet.store.has(blob)
    (first,) = fleet.inventory.documents("uses/")
    assert fleet.store.has(blob)
    (second,) = fleet.inventory.documents("uses/")
    assert second == first
    assert fleet.inventory.is_used_since(Digest(blob.digest), first.used_s)
