"""The semantics of `corepress.ports.store` as tests: inherit `StoreContract` and supply
`open_store`.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from corepress.domain.artifact import Blob, Digest, sha256_digest
from corepress.domain.errors import CorepressError, CorruptCheckpoint, SourceUnavailable
from corepress.ports.store import BlobNotFound, DocumentNotFound, Store

OpenStore = Callable[[], Store]
T = TypeVar("T")

_RACERS = 3
_RACES = 30
_MANY = 1200
"""Documents in a listing: more than a page of S3 has."""
_KILLED_WRITER_S = 60.0

_spawn = multiprocessing.get_context("spawn")


def blob_of(data: bytes) -> Blob:
    """What bytes are stored as."""
    return Blob(sha256_digest(data), len(data))


def bring(store: Store, data: bytes, digest: Digest | None = None) -> Blob:
    """Write a blob."""
    with store.writer() as writer:
        writer.write(data)
        return writer.commit(digest)


def content(store: Store, blob: Blob) -> bytes:
    """A blob's bytes; both ways to get at them agree."""
    handle = store.open(blob)
    assert handle.size_bytes == blob.size_bytes
    data = handle.read(0, handle.size_bytes)
    assert handle.local_path().read_bytes() == data
    return data


def is_absent(store: Store, blob: Blob) -> bool:
    """Whether a blob is not there, by all that the store says."""
    with pytest.raises(BlobNotFound):
        store.open(blob)
    return not store.has(blob)


def race_in(
    kind: str, run: Callable[[OpenStore, Path, int], T], open_store: OpenStore, start: Path
) -> list[T]:
    """What each racer returns, in threads of this process or in processes of their own."""
    start.mkdir()
    pool = (
        ThreadPoolExecutor(_RACERS)
        if kind == "threads"
        else ProcessPoolExecutor(_RACERS, mp_context=_spawn)
    )
    with pool:
        calls = [pool.submit(run, open_store, start, racer) for racer in range(_RACERS)]
        return [call.result() for call in calls]


def meet(folder: Path, racer: int) -> None:
    """Wait until all racers are at the start."""
    (folder / str(racer)).touch()
    while len(list(folder.iterdir())) < _RACERS:
        time.sleep(0.001)


def create_all(open_store: OpenStore, start: Path, racer: int) -> list[bool]:
    """Try to be the first at every key; whether it was."""
    store, mine = open_store(), str(racer).encode()
    meet(start, racer)
    return [store.create(f"leases/race/{race:08d}.json", mine) for race in range(_RACES)]


def bring_all(open_store: OpenStore, start: Path, racer: int) -> list[Blob]:
    """Bring the same blobs as all others."""
    store = open_store()
    meet(start, racer)
    return [bring(store, bytes([race]) * 10_000) for race in range(_RACES)]


def adopt_all(open_store: OpenStore, start: Path, racer: int) -> list[Blob]:
    """Let the store have one's own files, which have the bytes of all others'."""
    store, blobs = open_store(), []
    path = start.with_name(f"model-{racer}.safetensors")
    meet(start, racer)
    for race in range(_RACES):
        data = bytes([race]) * 10_000
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        os.utime(path, (racer, racer))
        blobs.append(store.adopt(path, sha256_digest(data)))
    return blobs


def leave_unfinished(store: Store, data: bytes, error: BaseException) -> None:
    """Leave a writer that can be resumed by an exception."""
    with store.resume("download", None) as unfinished:
        for piece in unfinished.kept():
            assert data.startswith(piece)
        unfinished.write(data)
        raise error


def resumed(store: Store, data: bytes) -> tuple[int, Blob]:
    """Bring a blob under the name that `leave_unfinished` has; how much of it was kept."""
    with store.resume("download", None) as unfinished:
        kept = b"".join(unfinished.kept())
        assert data.startswith(kept)
        unfinished.write(data[len(kept) :])
        return len(kept), unfinished.commit(sha256_digest(data))


def fail_while_writing(store: Store, error: BaseException) -> None:
    """Leave a writer by an exception."""
    with store.writer() as writer:
        writer.write(b"weights")
        raise error


def write_until_killed(open_store: OpenStore, began: Path) -> None:
    """Write all of a blob, but never commit it."""
    with open_store().writer() as writer:
        writer.write(b"half" * 100_000)
        began.touch()
        time.sleep(_KILLED_WRITER_S)


class StoreContract:
    """What every store must do. A subclass supplies the fixture `open_store`."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """Gives at every call another client of the same store, which is empty at first.

        It can be pickled: other processes call it too.
        """
        raise NotImplementedError

    @pytest.fixture
    def store(self, open_store: OpenStore) -> Store:
        """A client."""
        return open_store()

    @pytest.fixture
    def other(self, open_store: OpenStore) -> Store:
        """Another client of the same store."""
        return open_store()

    # what a call has returned from is visible to every later call of any process

    @pytest.mark.parametrize("data", [b"", b"{}", "größer".encode(), os.urandom(300_000)])
    @pytest.mark.parametrize("way", ["put", "create"])
    def test_a_document_is_read_back(
        self, store: Store, other: Store, way: str, data: bytes
    ) -> None:
        getattr(store, way)("jobs/a/steps/convert-unet-512x512.json", data)
        assert other.get("jobs/a/steps/convert-unet-512x512.json") == data

    def test_no_document(self, store: Store) -> None:
        store.put("jobs/a/result.json", b"1")
        for key in ("jobs/a/plan.json", "jobs/b/result.json", "jobs/a/result"):
            with pytest.raises(DocumentNotFound):
                store.get(key)

    def test_put_replaces(self, store: Store, other: Store) -> None:
        for data in (b"first", b"second, longer", b"3"):
            store.put("leases/a/1.json", data)
            assert other.get("leases/a/1.json") == data

    def test_the_age_of_a_document(self, store: Store, other: Store) -> None:
        written_s = time.monotonic()
        store.put("jobs/a/lease.json", b"1")
        while other.age_s("jobs/a/lease.json") < 3:
            assert time.monotonic() < written_s + 60
            time.sleep(0.1)
        assert time.monotonic() > written_s + 1
        written_s = time.monotonic()
        store.put("jobs/a/lease.json", b"2")
        assert other.age_s("jobs/a/lease.json") < time.monotonic() - written_s + 2
        with pytest.raises(DocumentNotFound):
            store.age_s("jobs/a/other.json")

    def test_what_is_deleted_is_gone(self, store: Store, other: Store) -> None:
        store.put("leases/a/1.json", b"1")
        other.delete("leases/a/1.json")
        with pytest.raises(DocumentNotFound):
            store.get("leases/a/1.json")
        assert list(store.keys("leases/a/")) == []
        store.delete("leases/a/1.json")
        assert other.create("leases/a/1.json", b"2")

    def test_a_document_is_never_half_written(self, store: Store, other: Store) -> None:
        versions = [bytes([number]) * 100_000 for number in range(3)]
        store.put("jobs/a/page.json", versions[0])
        written = threading.Event()

        def write() -> None:
            for number in range(60):
                store.put("jobs/a/page.json", versions[number % 3])
            written.set()

        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(write)
            while not written.is_set() and not writer.done():
                assert other.get("jobs/a/page.json") in versions
            writer.result()

    # create makes a document exactly once, however many callers race

    def test_create_leaves_what_is_there(self, store: Store, other: Store) -> None:
        assert store.create("jobs/a/result.json", b"first")
        assert not other.create("jobs/a/result.json", b"second")
        assert not store.create("jobs/a/result.json", b"first")
        assert other.get("jobs/a/result.json") == b"first"

    @pytest.mark.parametrize("kind", ["threads", "processes"])
    def test_one_racer_creates(self, open_store: OpenStore, tmp_path: Path, kind: str) -> None:
        won = race_in(kind, create_all, open_store, tmp_path / "start")
        store = open_store()
        for race in range(_RACES):
            winners = [str(racer).encode() for racer in range(_RACERS) if won[racer][race]]
            assert winners == [store.get(f"leases/race/{race:08d}.json")]

    # a listing sees every document created before it began

    def test_keys_by_prefix(self, store: Store, other: Store) -> None:
        keys = ["jobs/a/request.json", "jobs/a/steps/x.json", "jobs/a/steps/y.json"]
        for key in [*reversed(keys), "jobs/ab/request.json", "actions/a.json"]:
            store.put(key, b"1")
        assert list(other.keys("jobs/a/")) == keys
        assert list(other.keys("jobs/a/steps/")) == keys[1:]
        assert list(other.keys("jobs/a/steps/x")) == keys[1:2]
        assert list(other.keys("jobs/a")) == [*keys, "jobs/ab/request.json"]
        assert list(other.keys("jobs/b/")) == []
        assert list(other.keys("nothing/")) == []

    def test_long_listings_are_complete(self, store: Store, other: Store) -> None:
        keys = [f"jobs/a/steps/{number:05d}.json" for number in range(_MANY)]
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda key: store.create(key, b"1"), keys))
        assert list(other.keys("jobs/a/steps/")) == keys

    def test_a_listing_sees_what_racers_created_before(self, open_store: OpenStore) -> None:
        def settle(number: int) -> set[str]:
            client = open_store()
            client.create(f"jobs/a/steps/{number}.json", b"1")
            return set(client.keys("jobs/a/steps/"))

        with ThreadPoolExecutor(8) as pool:
            listings = list(pool.map(settle, range(40)))
        seen = Counter(key for listing in listings for key in listing)
        assert max(map(len, listings)) == 40  # whoever came last saw all
        assert all(f"jobs/a/steps/{n}.json" in listings[n] for n in range(40))
        assert len(seen) == 40

    # a blob is complete or absent, never half-written

    @pytest.mark.parametrize("data", [b"", b"weights", os.urandom(300_000)])
    def test_a_blob_is_read_back(self, store: Store, other: Store, data: bytes) -> None:
        blob = bring(store, data)
        assert blob == blob_of(data)
        assert other.has(blob)
        assert content(other, blob) == data

    def test_ranges_of_a_blob(self, store: Store, other: Store) -> None:
        data = os.urandom(100_000)
        handle = other.open(bring(store, data))
        for start, size_bytes in ((0, 1), (0, 100_000), (12_345, 54_321), (99_999, 1), (7, 0)):
            assert handle.read(start, size_bytes) == data[start : start + size_bytes]
        with pytest.raises(CorruptCheckpoint):
            handle.read(99_990, 11)

    def test_a_stated_digest_is_believed(self, store: Store, other: Store) -> None:
        digest = Digest("tensors:" + "ab" * 32)
        blob = bring(store, b"weights", digest)
        assert blob == Blob(digest, 7)
        assert content(other, blob) == b"weights"
        assert is_absent(other, blob_of(b"weights"))

    def test_a_blob_of_ranges(self, store: Store, other: Store) -> None:
        first, second = os.urandom(9 << 20), os.urandom(1000)
        handles = [store.open(bring(store, data)) for data in (first, second)]
        with store.writer() as writer:
            writer.write(b"header")
            writer.copy_range(handles[0], 3, len(first) - 3)
            writer.copy_range(handles[1], 10, 0)
            writer.write(memoryview(b"between"))
            writer.copy_range(handles[1], 1, 900)
            blob = writer.commit()
        expected = b"header" + first[3:] + b"between" + second[1:901]
        assert blob == blob_of(expected)
        assert content(other, blob) == expected

    def test_a_clone_is_the_whole_file(self, store: Store, other: Store) -> None:
        data, digest = os.urandom(100_000), Digest("tensors:" + "cd" * 32)
        original = store.open(bring(store, data))
        with store.writer(digest) as writer:
            if not writer.clone(original):
                writer.copy_range(original, 0, len(data))
            assert writer.commit(digest) == Blob(digest, len(data))
        assert content(other, Blob(digest, len(data))) == data

    def test_absent_until_committed(self, store: Store, other: Store) -> None:
        data = b"weights" * 50_000
        with store.writer() as writer:
            assert is_absent(other, blob_of(data))
            writer.write(data)
            assert is_absent(other, blob_of(data))
            writer.commit()
            assert other.has(blob_of(data))
        assert other.has(blob_of(data))

    @pytest.mark.parametrize("error", [KeyError("bug"), OSError("not the store's"), SystemExit()])
    def test_what_is_not_committed_is_discarded(
        self, store: Store, other: Store, error: BaseException
    ) -> None:
        with store.writer() as writer:
            writer.write(b"weights")
        assert is_absent(other, blob_of(b"weights"))
        with pytest.raises(type(error)) as raised:
            fail_while_writing(store, error)
        assert raised.value is error
        assert is_absent(other, blob_of(b"weights"))

    def test_a_killed_writer_leaves_no_blob(self, open_store: OpenStore, tmp_path: Path) -> None:
        began = tmp_path / "began"
        process = _spawn.Process(target=write_until_killed, args=(open_store, began))
        process.start()
        while not began.exists():
            assert process.is_alive()
            time.sleep(0.01)
        process.kill()
        process.join()
        store, data = open_store(), b"half" * 100_000
        assert is_absent(store, blob_of(data))
        assert content(store, bring(store, data)) == data

    def test_an_unfinished_blob_goes_on_or_begins_anew(self, store: Store, other: Store) -> None:
        data = os.urandom(9_000_000)
        with pytest.raises(SourceUnavailable):
            leave_unfinished(store, data[:8_900_000], SourceUnavailable("cut off"))
        assert is_absent(other, blob_of(data))
        _, blob = resumed(other, data)
        assert content(store, blob) == data
        kept_bytes, _ = resumed(store, os.urandom(100))
        assert kept_bytes == 0

    def test_what_failed_for_good_is_not_gone_on_with(self, store: Store) -> None:
        data = os.urandom(9_000_000)
        with pytest.raises(CorruptCheckpoint):
            leave_unfinished(store, data[::-1], CorruptCheckpoint("another digest"))
        kept_bytes, blob = resumed(store, data)
        assert kept_bytes == 0
        assert content(store, blob) == data

    @pytest.mark.parametrize("missing", [1, -1])
    def test_a_blob_of_another_size_is_absent(self, store: Store, missing: int) -> None:
        blob = bring(store, b"weights")
        assert is_absent(store, Blob(blob.digest, blob.size_bytes + missing))
        assert store.has(blob)

    # and never changes once it is there

    def test_bringing_a_blob_again_leaves_it(self, store: Store, other: Store) -> None:
        data = os.urandom(100_000)
        blob = bring(store, data)
        handle = store.open(blob)
        assert handle.read(0, 10) == data[:10]
        assert bring(other, data) == blob
        assert handle.read(10, 99_990) == data[10:]

    @pytest.mark.parametrize("kind", ["threads", "processes"])
    @pytest.mark.parametrize("run", [bring_all, adopt_all])
    def test_racers_bring_the_same_blob(
        self,
        open_store: OpenStore,
        tmp_path: Path,
        kind: str,
        run: Callable[[OpenStore, Path, int], list[Blob]],
    ) -> None:
        brought = race_in(kind, run, open_store, tmp_path / "start")
        store = open_store()
        for race in range(_RACES):
            data = bytes([race]) * 10_000
            assert {blobs[race] for blobs in brought} == {blob_of(data)}
            assert content(store, blob_of(data)) == data

    # local files

    def test_a_file_is_taken_over(self, store: Store, other: Store, tmp_path: Path) -> None:
        for data in (b"weights" * 1000, b"", b"weights" * 1000):
            path = tmp_path / "weight.bin"
            path.write_bytes(data)
            assert store.add(path) == blob_of(data)
            assert content(other, blob_of(data)) == data
            path.unlink(missing_ok=True)

    def test_a_user_keeps_an_adopted_file(self, store: Store, other: Store, tmp_path: Path) -> None:
        path, data = tmp_path / "model.safetensors", os.urandom(50_000)
        path.write_bytes(data)
        path.chmod(0o640)
        before = path.stat()
        for client in (store, other, store):
            blob = client.adopt(path, sha256_digest(data))
            assert blob == blob_of(data)
            assert content(client, blob) == data
            assert client.has(blob)
        after = path.stat()
        assert path.read_bytes() == data
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)

    @pytest.mark.parametrize("way", ["appended", "overwritten", "replaced", "removed"])
    def test_a_user_changes_an_adopted_file(
        self, store: Store, other: Store, tmp_path: Path, way: str
    ) -> None:
        path, data = tmp_path / "model.safetensors", os.urandom(50_000)
        path.write_bytes(data)
        os.utime(path, (1, 1))
        blob = store.adopt(path, sha256_digest(data))
        handle = store.open(blob)
        if way == "appended":
            with path.open("ab") as file:
                file.write(b"more")
        elif way == "overwritten":
            with path.open("r+b") as file:
                file.write(b"changed")
        elif way == "replaced":
            path.with_name("new").write_bytes(b"changed")
            path.with_name("new").replace(path)
        else:
            path.unlink()
        with suppress(CorepressError):
            assert handle.read(0, 50_000) == data
        if other.has(blob):
            assert content(other, blob) == data
        else:
            assert is_absent(other, blob)
        path.write_bytes(data)
        assert other.adopt(path, sha256_digest(data)) == blob
        assert content(store, blob) == data
