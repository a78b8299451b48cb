"""A checkpoint's files on disk: which are seen, and which ways out of the folder are barred."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corepress.domain.errors import (
    CorruptCheckpoint,
    SourceNotFound,
    SourceUnavailable,
    UnsafePath,
)
from corepress.runtime.files import LocalFile, source_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "model_index.json").write_text("{}")
    return folder


def test_files_of_a_folder_and_its_subfolders(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("")
    (folder / "unet" / "deeper").mkdir()
    (folder / "unet" / "deeper" / "file").write_text("")
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("nowhere")
    assert source_files(folder).keys() == {"model_index.json", "unet/config.json"}


def test_a_single_file_stands_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"12345")
    (tmp_path / "name.safetensors").symlink_to("target")
    files = source_files(tmp_path / "name.safetensors")
    assert {name: file.size_bytes for name, file in files.items()} == {"name.safetensors": 5}


def test_a_file_that_vanishes_is_no_bug(folder: Path) -> None:
    file = source_files(folder)["model_index.json"]
    (folder / "model_index.json").unlink()
    for look in (lambda: file.read(0, 1), lambda: file.size_bytes, lambda: file.fingerprint):
        with pytest.raises(SourceUnavailable, match="model_index"):
            look()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that fails with EIO")
def test_a_disk_that_fails_is_no_bug() -> None:
    with pytest.raises(SourceUnavailable, match="Input/output"):
        LocalFile(Path("/proc/self/mem")).read(0, 1)


def test_a_link_inside_the_folder_counts_as_its_target(folder: Path) -> None:
    (folder / "unet" / "link.json").symlink_to("config.json")
    assert source_files(folder)["unet/link.json"].read(0, 2) == b"{}"


@pytest.mark.parametrize("target", ["secret", "folder"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, target: str) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder.parent / "folder").mkdir()
    (folder / "unet" / "README.md").symlink_to(folder.parent / target)
    if target == "folder":
        (folder / "vae").symlink_to(folder.parent / target)
    with pytest.raises(UnsafePath):
        source_files(folder)


def test_a_snapshot_in_a_hub_cache_links_into_its_repository(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "123").write_text("{}")
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").symlink_to("../../blobs/123")
    assert source_files(snapshot)["model_index.json"].read(0, 2) == b"{}"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="neither a file nor a folder"):
        source_files(tmp_path / "absent")


def test_a_range_beyond_the_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    file = LocalFile(tmp_path / "file")
    assert file.read(2, 3) == b"345"
    with pytest.raises(CorruptCheckpoint):
        file.read(3, 3)
