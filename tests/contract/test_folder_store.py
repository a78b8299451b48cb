"""The folder as a store keeps the contract of every store, also after a power cut."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from corepress.adapters.embedded.store import FolderStore
from corepress.domain.artifact import sha256_digest
from corepress.ports.store import Store
from corepress.runtime.clone import clone
from corepress.testing.store_contract import (
    OpenStore,
    StoreContract,
    bring,
    content,
    is_absent,
)


class TestFolderStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return partial(FolderStore, tmp_path / "state")

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> Path:
        return tmp_path / "state" / "blobs"

    @pytest.mark.parametrize("kept_bytes", [0, 1, 9_999])
    def test_a_blob_cut_short_is_absent(self, store: Store, blobs: Path, kept_bytes: int) -> None:
        data = os.urandom(10_000)
        blob = bring(store, data)
        (path,) = (path for path in blobs.rglob("*") if path.is_file())
        path.chmod(0o644)
        os.truncate(path, kept_bytes)
        assert is_absent(store, blob)
        assert bring(store, data) == blob
        assert content(store, blob) == data

    def test_blobs_cannot_be_written_to(self, store: Store, blobs: Path) -> None:
        bring(store, b"weights")
        (path,) = (path for path in blobs.rglob("*") if path.is_file())
        assert path.stat().st_mode & 0o222 == 0

    def test_an_adopted_file_takes_no_room(self, store: Store, tmp_path: Path, blobs: Path) -> None:
        path, data = tmp_path / "model.safetensors", os.urandom(1 << 20)
        path.write_bytes(data)
        store.adopt(path, sha256_digest(data))
        if not clone(path, tmp_path / "reflink"):
            assert [p for p in blobs.rglob("*") if p.is_file() and p.samefile(path)]

    def test_a_blob_is_never_a_symbolic_link(
        self, store: Store, tmp_path: Path, blobs: Path
    ) -> None:
        for name in ("adopted", "added"):
            (tmp_path / name).write_text(name)
            (tmp_path / f"{name} link").symlink_to(name)
        store.adopt(tmp_path / "adopted link", sha256_digest(b"adopted"))
        added = store.add(tmp_path / "added link")
        assert not [path for path in blobs.rglob("*") if path.is_symlink()]
        (tmp_path / "added").write_text("other")  # what the link led to is the user's own
        assert content(store, added) == b"added"

    def test_nothing_is_left_beside_what_was_asked_for(self, store: Store, tmp_path: Path) -> None:
        bring(store, b"weights")
        store.put("jobs/a/page.json", b"1")
        store.create("jobs/a/page.json", b"2")
        with store.writer() as writer:
            writer.write(b"not committed")
        assert list((tmp_path / "state" / "tmp").iterdir()) == []
