"""Bundles in the forms that apps take."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import ZipFile

import pytest
from bundle_support import copy_of, corepress, tiny_bundle


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """A bundle as a Mac makes it, as far as names go."""
    bundle = copy_of(tiny_bundle(), tmp_path)
    for package in (bundle / "Resources").glob("*.mlpackage"):
        package.rename(package.with_suffix(".mlmodelc"))
    return bundle


def relative_files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_the_archive_that_hugging_faces_app_downloads(compiled: Path, tmp_path: Path) -> None:
    """The folder in it is called as the archive is: the app opens just that."""
    arguments = ("export", compiled, "--for", "diffusers-app", "--out", tmp_path / "out")
    result = corepress(*arguments, "--name", "coreml-tiny")
    assert result.exit_code == 0, result.stderr
    archive = tmp_path / "out" / "coreml-tiny_original_compiled.zip"
    assert result.stdout == f"{archive}\n"
    with ZipFile(archive) as zipped:
        zipped.extractall(tmp_path / "models")
    folder = tmp_path / "models" / "coreml-tiny_original_compiled"
    assert relative_files(folder) == relative_files(compiled / "Resources")
    weights = Path("Unet.mlmodelc/Data/com.apple.CoreML/weights/weight.bin")
    assert (folder / weights).read_bytes() == (compiled / "Resources" / weights).read_bytes()


def test_an_archive_has_the_same_bytes_on_any_day(compiled: Path, tmp_path: Path) -> None:
    archives = []
    for out in ("one", "two"):
        corepress("export", compiled, "--for", "diffusers-app", "--out", tmp_path / out)
        (archive,) = (tmp_path / out).iterdir()
        archives.append(archive.read_bytes())
        for path in compiled.rglob("*"):
            path.touch()
    assert archives[0] == archives[1]


def test_the_folder_that_mochi_diffusion_reads(compiled: Path, tmp_path: Path) -> None:
    arguments = ("export", compiled, "--for", "mochi", "--out", tmp_path / "models")
    assert corepress(*arguments).exit_code == 0
    (folder,) = (tmp_path / "models").iterdir()
    assert folder.name == "tiny_original_compiled"
    assert (folder / "Unet.mlmodelc").is_dir()
    assert relative_files(folder) == relative_files(compiled / "Resources")
    again = corepress(*arguments)
    assert again.exit_code == 3
    assert "output-conflict" in again.stderr


def test_packages_are_called_so(tmp_path: Path) -> None:
    arguments = ("export", tiny_bundle(), "--for", "mochi", "--out", tmp_path)
    result = corepress(*arguments, "--json")
    expected = {"path": str(tmp_path / "tiny_original_packages"), "form": "packages"}
    assert json.loads(result.stdout) == expected
    result = corepress("export", tiny_bundle(), "--for", "diffusers-app", "--out", tmp_path)
    assert "holds .mlpackage models" in result.stdout


def test_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    arguments = ("export", tmp_path / "folder", "--for", "mochi", "--out", tmp_path / "out")
    assert corepress(*arguments).exit_code == 3
    assert not (tmp_path / "out").exists()
