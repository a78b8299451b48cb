"""The cache of finished steps: what counts as done, and what is forgotten first."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from runtime_support import ShiftedClock

from corepress.adapters.embedded import store as store_module
from corepress.adapters.embedded.pruning import clear_leftovers, prune
from corepress.adapters.embedded.store import FolderStore
from corepress.domain.artifact import Artifact, Blob, sha256_digest
from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress.runtime import leases
from corepress.runtime.actions import Action, action_of, commit, load_outputs
from corepress.testing.store_contract import bring, content

KB = 1000


def run(task: Task, workspace: Workspace) -> Outputs:
    raise NotImplementedError


ACTION = action_of(Stage("convert", 1, run, toolchain=("pytest", "absent-thing")), Task("x", {}))


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "state")


@pytest.fixture
def without_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on ext4, where adopted files are hard links."""
    monkeypatch.setattr(store_module, "clone", lambda _source, _target: False)


def outputs_of(*blobs: Blob) -> Outputs:
    return Outputs({"package": Artifact({str(n): blob for n, blob in enumerate(blobs)})}, {"a": 1})


def blob_files(store: FolderStore) -> set[Path]:
    return {path for path in (store.root / "blobs").rglob("*") if path.is_file()}


def used_long_ago(store: FolderStore, *, days: float) -> None:
    """Set back the last use of all that is there."""
    past_s = time.time() - days * 24 * 3600
    for path in blob_files(store):
        os.utime(path, (past_s, path.stat().st_mtime))


# actions


def test_versions_are_those_installed() -> None:
    assert ACTION.toolchain == {"pytest": pytest.__version__, "absent-thing": "absent"}


def test_what_is_committed_is_done(store: FolderStore) -> None:
    assert load_outputs(store, ACTION.key) is None
    outputs = outputs_of(bring(store, b"a"), bring(store, b""))
    commit(store, ACTION, outputs)
    assert load_outputs(store, ACTION.key) == outputs


def test_without_its_blobs_an_action_is_not_done(store: FolderStore) -> None:
    kept, lost = bring(store, b"kept"), bring(store, b"lost")
    commit(store, ACTION, outputs_of(kept, lost))
    (path,) = (p for p in blob_files(store) if p.read_bytes() == b"lost")
    path.unlink()
    assert load_outputs(store, ACTION.key) is None
    bring(store, b"lost")
    assert load_outputs(store, ACTION.key) is not None


def test_a_blob_cut_short_undoes_its_action(store: FolderStore) -> None:
    commit(store, ACTION, outputs_of(bring(store, b"weights")))
    (path,) = blob_files(store)
    path.chmod(0o644)
    os.truncate(path, 3)
    assert load_outputs(store, ACTION.key) is None


@pytest.mark.parametrize("torn", [b"", b'{"stage": "conv'])
def test_a_manifest_cut_short_is_none(store: FolderStore, torn: bytes) -> None:
    outputs = outputs_of(bring(store, b"weights"))
    store.put(f"actions/{ACTION.key}.json", torn)
    assert load_outputs(store, ACTION.key) is None
    commit(store, ACTION, outputs)
    assert load_outputs(store, ACTION.key) == outputs


def test_the_first_outcome_stands(store: FolderStore) -> None:
    first, second = outputs_of(bring(store, b"first")), outputs_of(bring(store, b"second"))
    commit(store, ACTION, first)
    commit(store, ACTION, second)
    assert load_outputs(store, ACTION.key) == first


def test_an_outcome_that_is_gone_gives_way(store: FolderStore) -> None:
    commit(store, ACTION, outputs_of(Blob(sha256_digest(b"never there"), 11)))
    second = outputs_of(bring(store, b"second"))
    commit(store, ACTION, second)
    assert load_outputs(store, ACTION.key) == second


# pruning


def test_what_was_used_longest_ago_goes_first(store: FolderStore) -> None:
    old, used, loaded = (bring(store, bytes([n]) * 10 * KB) for n in range(3))
    commit(store, ACTION, outputs_of(loaded))
    used_long_ago(store, days=3)
    assert store.has(used)
    assert load_outputs(store, ACTION.key) is not None
    new = bring(store, bytes([9]) * 10 * KB)
    assert prune(store.root, 30 * KB) == 10 * KB
    assert [store.has(blob) for blob in (old, used, loaded, new)] == [False, True, True, True]


def test_no_more_is_forgotten_than_needed(store: FolderStore) -> None:
    for number in range(5):
        bring(store, bytes([number]) * 10 * KB)
    assert prune(store.root, 50 * KB) == 0
    assert prune(store.root, 31 * KB) == 20 * KB
    assert len(blob_files(store)) == 3
    assert prune(store.root, 0) == 30 * KB
    assert blob_files(store) == set()
    assert prune(store.root, 0) == 0


@pytest.mark.usefixtures("without_reflinks")
def test_a_linked_file_takes_no_room_as_long_as_its_user_has_it(
    store: FolderStore, tmp_path: Path
) -> None:
    path, data = tmp_path / "model.safetensors", b"w" * 100 * KB
    path.write_bytes(data)
    linked = store.adopt(path, sha256_digest(data))
    assert prune(store.root, 0) == 0
    assert content(store, linked) == data
    path.unlink()
    assert content(store, linked) == data
    assert prune(store.root, 100 * KB) == 0
    assert prune(store.root, 99 * KB) == 100 * KB
    assert blob_files(store) == set()


@pytest.mark.usefixtures("without_reflinks")
def test_pruning_never_parts_a_link_from_its_guard(store: FolderStore, tmp_path: Path) -> None:
    path, data = tmp_path / "model.safetensors", b"w" * 100 * KB
    path.write_bytes(data)
    os.utime(path, (1, 1))
    linked = store.adopt(path, sha256_digest(data))
    used_long_ago(store, days=3)
    bring(store, b"x" * KB)
    prune(store.root, 0)
    assert content(store, linked) == data
    path.write_bytes(b"x" * 100 * KB)
    assert not store.has(linked)
    prune(store.root, 100 * KB)
    assert blob_files(store) == set()


@pytest.mark.usefixtures("without_reflinks")
def test_a_linked_file_is_as_young_as_its_last_use(store: FolderStore, tmp_path: Path) -> None:
    path, data = tmp_path / "model.safetensors", b"w" * 10 * KB
    path.write_bytes(data)
    os.utime(path, (1, 1))
    linked = store.adopt(path, sha256_digest(data))
    other = bring(store, b"x" * 10 * KB)
    used_long_ago(store, days=3)
    assert store.has(linked)
    assert path.stat().st_atime < time.time() - 24 * 3600  # which is the user's own
    path.unlink()
    assert prune(store.root, 10 * KB) == 10 * KB
    assert (store.has(linked), store.has(other)) == (True, False)


def test_old_jobs_are_forgotten(store: FolderStore) -> None:
    for job in ("old", "new"):
        store.put(f"jobs/{job}/request.json", b"{}")
        store.put(f"jobs/{job}/steps/fetch.json", b"{}")
    past_s = time.time() - 8 * 24 * 3600
    os.utime(store.root / "jobs" / "old", (past_s, past_s))
    prune(store.root, KB)
    assert list(store.keys("jobs/")) == ["jobs/new/request.json", "jobs/new/steps/fetch.json"]


def test_unfinished_downloads_are_forgotten_after_a_day(store: FolderStore) -> None:
    old, recent = (store.root / "partial" / name for name in ("old", "recent"))
    for path in (old, recent):
        path.write_bytes(b"weights")
    clear_leftovers(store.root)  # which a download outlives
    assert old.exists()
    yesterday_s = time.time() - 25 * 3600
    os.utime(old, (yesterday_s, yesterday_s))
    prune(store.root, KB)
    assert [path.name for path in (store.root / "partial").iterdir()] == ["recent"]


def test_leftovers_of_a_killed_process_are_cleared(store: FolderStore) -> None:
    kept = bring(store, b"kept")
    commit(store, ACTION, outputs_of(kept))
    assert leases.claim(store, ShiftedClock(), "action", "gone")
    writer = store.writer()
    writer.__enter__().write(b"half")
    (store.root / "tmp" / "corepress-x" / "model").mkdir(parents=True)
    clear_leftovers(store.root)
    assert list((store.root / "tmp").iterdir()) == []
    assert list(store.keys("leases/")) == []
    assert load_outputs(store, ACTION.key) is not None
    assert leases.claim(store, ShiftedClock(), "action", "next")
    assert bring(store, b"half") == Blob(sha256_digest(b"half"), 4)


def test_an_action_tells_its_toolchain(store: FolderStore) -> None:
    other = Action("0" * 64, ACTION.task, {"torch": "2.13.0"})
    commit(store, other, outputs_of())
    assert b'"toolchain":{"torch":"2.13.0"}' in store.get(f"actions/{'0' * 64}.json")
