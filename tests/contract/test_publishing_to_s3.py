"""Publishing to a bucket of a real server: immutable versions, one order, one owner of a name."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from publishing_support import SOURCE, bundle, known_job
from s3_server import new_bucket

from corepress.adapters.s3.client import S3Location, open_client
from corepress.adapters.s3.published import S3Publisher
from corepress.adapters.s3.store import S3Store
from corepress.domain.artifact import Artifact
from corepress.domain.errors import NameTaken, StoreUnavailable
from corepress.domain.publication import version_of
from corepress.ports.clock import SystemClock
from corepress.runtime import catalogue, leases

MIB = 1 << 20


@pytest.fixture
def location() -> S3Location:
    return new_bucket("some/prefix/")


@pytest.fixture
def store(location: S3Location, tmp_path: Path) -> S3Store:
    return S3Store(location, tmp_path / "cache")


@pytest.fixture
def publisher(store: S3Store) -> S3Publisher:
    return S3Publisher(store, SystemClock())


def published(store: S3Store, build: str = "one/original") -> list[str]:
    return [key.removeprefix(f"published/{build}/") for key in store.keys(f"published/{build}/")]


def latest(store: S3Store, build: str = "one/original") -> str:
    return str(json.loads(store.get(f"published/{build}/latest.json"))["version"])


def page(store: S3Store) -> list[tuple[str, str]]:
    """Names and versions of ``catalogue.json``."""
    entries = json.loads(store.get("catalogue.json"))["entries"]
    return [(entry["name"], entry["version"]) for entry in entries.values()]


def test_a_bundle_is_readable_under_its_files_names(store: S3Store, publisher: S3Publisher) -> None:
    one = bundle(store, b"weights")
    publisher.publish(known_job(store, "job-1"), "one", "original", one)
    version = version_of(one)
    assert set(published(store)) == {"latest.json", *(f"{version}/{path}" for path in one.files)}
    key = f"published/one/original/{version}/Resources/Unet.mlpackage/weight.bin"
    assert store.get(key) == b"weights"
    (entry,) = catalogue.publications(store)
    assert (entry.name, entry.build, entry.number) == ("one", "original", 1)
    assert (entry.version, entry.job, entry.source) == (version, "job-1", SOURCE)
    assert entry.steps == {"convert-unet": "action-of-job-1"}
    assert entry.path == f"published/one/original/{version}/"
    assert page(store) == [("one", version)]


def test_published_again_nothing_changes(store: S3Store, publisher: S3Publisher) -> None:
    one = bundle(store, b"weights")
    publisher.publish(known_job(store, "job-1"), "one", "original", one)
    before = {key: store.get(key) for key in (*store.keys("published/"), *store.keys("catalogue"))}
    publisher.publish(known_job(store, "job-2"), "one", "original", one)
    after = {key: store.get(key) for key in (*store.keys("published/"), *store.keys("catalogue"))}
    assert after == before


def test_an_older_bundle_published_again_is_not_the_latest(
    store: S3Store, publisher: S3Publisher
) -> None:
    old, new = bundle(store, b"old"), bundle(store, b"new")
    publisher.publish(known_job(store, "job-1"), "one", "original", old)
    assert latest(store) == version_of(old)
    publisher.publish(known_job(store, "job-2"), "one", "original", new)
    publisher.publish(known_job(store, "job-1"), "one", "original", old)
    assert latest(store) == version_of(new)
    assert [entry.version for entry in catalogue.versions(store, "one", "original")] == [
        version_of(old),
        version_of(new),
    ]


def test_large_files_are_copied_in_parts(
    store: S3Store, publisher: S3Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corepress.adapters.s3.published._COPIED_WHOLE_BYTES", 8 * MIB)
    weights = os.urandom(20 * MIB)
    large = bundle(store, weights)
    publisher.publish(known_job(store, "job-1"), "one", "original", large)
    prefix = f"published/one/original/{version_of(large)}/"
    assert store.get(f"{prefix}Resources/Unet.mlpackage/weight.bin") == weights


def test_a_name_belongs_to_the_source_that_took_it(store: S3Store, publisher: S3Publisher) -> None:
    publisher.publish(known_job(store, "job-1"), "one", "original", bundle(store, b"1"))
    other = {"uri": "https://models.example/two.safetensors", "sha256": "2" * 64}
    with pytest.raises(NameTaken, match=r"one\.safetensors"):
        publisher.publish(
            known_job(store, "job-2", "small"), "one", "small", bundle(store, b"2", other)
        )
    assert published(store, "one/small") == []
    publisher.publish(
        known_job(store, "job-3", "small"), "two", "small", bundle(store, b"2", other)
    )
    newer = bundle(store, b"3", SOURCE | {"sha256": "3" * 64})
    publisher.publish(known_job(store, "job-4"), "one", "original", newer)
    assert latest(store) == version_of(newer)


def test_what_the_store_lost_is_not_published(
    store: S3Store, publisher: S3Publisher, location: S3Location
) -> None:
    one = bundle(store, b"weights")
    kind, value = one.files["Resources/Unet.mlpackage/weight.bin"].digest.split(":")
    key = f"{location.prefix}blobs/{kind}/{value[:2]}/{value}"
    open_client(location).delete_object(Bucket=location.bucket, Key=key)
    with pytest.raises(StoreUnavailable, match="no longer has"):
        publisher.publish(known_job(store, "job-1"), "one", "original", one)
    assert catalogue.publications(store) == []


def at_once(calls: list[Callable[[], Any]]) -> None:
    """Run calls in threads that start at the same moment."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> None:
        start.wait()
        call()

    with ThreadPoolExecutor(len(calls)) as pool:
        list(pool.map(run, calls))


def publish_all(location: S3Location, cache: Path, bundles: list[tuple[str, Artifact]]) -> None:
    """What one host publishes."""
    store = S3Store(location, cache)
    publisher = S3Publisher(store, SystemClock())
    for name, each in bundles:
        publisher.publish(known_job(store, f"job-{name}"), name, "original", each)


def test_publishers_at_the_same_moment_lose_nothing(
    store: S3Store, location: S3Location, tmp_path: Path
) -> None:
    """Six hosts: names of their own, versions of one name, and the same delivery twice."""
    shared = [bundle(store, bytes([version])) for version in range(6)]
    own = [(f"model-{host}", bundle(store, bytes([host]))) for host in range(6)]
    hosts = [
        [own[host], ("shared", shared[host]), ("shared", shared[host - 1])] for host in range(6)
    ]
    at_once(
        [
            lambda each=each, host=host: publish_all(location, tmp_path / str(host), each)
            for host, each in enumerate(hosts)
        ]
    )
    versions = catalogue.versions(store, "shared", "original")
    assert [entry.number for entry in versions] == [1, 2, 3, 4, 5, 6]
    assert {entry.version for entry in versions} == {version_of(each) for each in shared}
    assert latest(store, "shared/original") == versions[-1].version
    expected = [(name, version_of(each)) for name, each in own]
    expected += [("shared", entry.version) for entry in versions]
    assert sorted(page(store)) == sorted(expected)


class StoreOvertaken(S3Store):
    """A store in which, the moment before a document is written, something else happens once."""

    def overtaken(self, ending: str, meanwhile: Callable[[], Any]) -> None:
        self.ending, self.meanwhile = ending, [meanwhile]

    def put(self, key: str, data: bytes) -> None:
        if key.endswith(self.ending) and self.meanwhile:
            self.meanwhile.pop()()
        super().put(key, data)


@pytest.mark.parametrize("ending", ["catalogue.json", "latest.json"])
def test_overtaken_while_writing_what_is_derived(
    store: S3Store, publisher: S3Publisher, location: S3Location, tmp_path: Path, ending: str
) -> None:
    """What is written then is out of date, and there was nobody else to write it anew."""
    old, new = bundle(store, b"old"), bundle(store, b"new")
    slow = StoreOvertaken(location, tmp_path / "slow")
    job = known_job(store, "job-2")
    with ThreadPoolExecutor(1) as pool:

        def overtake() -> None:
            publishing = pool.submit(publisher.publish, job, "one", "original", new)
            if ending == "latest.json":
                publishing.result()
            while len(catalogue.versions(store, "one", "original")) < 2:  # it waits for the page
                time.sleep(0.01)

        slow.overtaken(ending, overtake)
        S3Publisher(slow, SystemClock()).publish(known_job(store, "job-1"), "one", "original", old)
    assert slow.meanwhile == []
    assert latest(store) == version_of(new)
    assert page(store) == [("one", version_of(old)), ("one", version_of(new))]


def test_a_dead_writer_of_the_page_leaves_nothing_out(
    store: S3Store, publisher: S3Publisher
) -> None:
    """Nobody else may publish for a long time."""
    assert leases.claim(store, SystemClock(), "catalogue", "dead", 2.0)
    new = bundle(store, b"new")
    publisher.publish(known_job(store, "job-1"), "one", "original", new)
    assert page(store) == [("one", version_of(new))]


def test_a_page_that_was_overwritten_is_made_whole(store: S3Store, publisher: S3Publisher) -> None:
    one, two = bundle(store, b"1"), bundle(store, b"2")
    publisher.publish(known_job(store, "job-1"), "one", "original", one)
    outdated = store.get("catalogue.json")
    publisher.publish(known_job(store, "job-2"), "two", "original", two)
    store.put("catalogue.json", outdated)
    assert {entry.name for entry in catalogue.publications(store)} == {"one", "two"}
    publisher.publish(known_job(store, "job-2"), "two", "original", two)
    assert sorted(page(store)) == [("one", version_of(one)), ("two", version_of(two))]
