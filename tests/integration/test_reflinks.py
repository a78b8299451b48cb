"""Weight files that are already right take no room where the file system has reflinks."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from normalize_support import ignore_progress, normalize_tiny
from safetensors.torch import load_file, save_file

from corepress.domain.errors import NonFiniteWeights
from corepress.domain.job import CheckpointOptions
from corepress.runtime.clone import can_clone
from corepress_normalize.folder import normalize_folder

_MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system with reflinks: the usual one's, or an XFS of its own."""
    if can_clone(tmp_path, tmp_path):
        yield tmp_path
        return
    if os.geteuid() != 0:
        pytest.skip("mounting an XFS image takes root, and this file system has no reflinks")
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    mounted.mkdir()
    image.touch()
    os.truncate(image, 320 * _MIB)
    subprocess.run(["/sbin/mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def used_bytes(folder: Path) -> int:
    os.sync()
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.fixture
def published(folder: Path) -> Path:
    """A diffusers folder as others publish them: without a manifest."""
    normalize_tiny("sdxl-base", folder / "published")
    (folder / "published" / "corepress.json").unlink()
    return folder / "published"


def test_unchanged_weight_files_are_reflinks(folder: Path, published: Path) -> None:
    weights = sorted(published.rglob("*.safetensors"))
    weights[0].chmod(0o444)
    before, size_bytes = used_bytes(folder), sum(path.stat().st_size for path in weights)
    report = normalize_folder(published, folder / "out", CheckpointOptions(), ignore_progress)
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    others_bytes = sum(path.stat().st_size for path in files if path.suffix != ".safetensors")
    assert used_bytes(folder) - before < others_bytes + size_bytes / 4
    for path in weights:
        name = path.relative_to(published).as_posix()
        written = folder / "out" / name
        assert written.read_bytes() == path.read_bytes()
        assert report["files"][name] == {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
    with (folder / "out" / weights[0].relative_to(published)).open("r+b") as file:
        file.write(b"\0")  # the copy is the user's, and the original stays as it is
    assert weights[0].read_bytes()[0] != 0


def test_what_must_change_is_written(folder: Path, published: Path) -> None:
    fp16 = CheckpointOptions(precision="fp16")
    normalize_folder(published, folder / "out", fp16, ignore_progress)
    for path in published.rglob("*.safetensors"):
        written = load_file(folder / "out" / path.relative_to(published))
        for name, value in load_file(path).items():
            torch.testing.assert_close(written[name], value.half(), rtol=0, atol=0)


def test_reflinks_are_screened_too(folder: Path, published: Path) -> None:
    path = published / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(NonFiniteWeights):
        normalize_folder(published, folder / "out", CheckpointOptions(), ignore_progress)
    assert not (folder / "out").exists()
