"""An output folder is there complete or not at all, and nobody else's folder is touched."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corepress.domain.errors import DiskFull, OutputConflict
from corepress.runtime.output_folder import output_folder

MARKER, SCHEMA = "manifest.json", "corepress.test/1"

WRITER = """
import sys, time
from pathlib import Path
from corepress.runtime.output_folder import output_folder

with output_folder(Path(sys.argv[1]), "manifest.json", "corepress.test/1") as (new, temporary):
    (new / "manifest.json").write_text('{"schema": "corepress.test/1"}')
    (temporary / "piece").touch()
    Path(sys.argv[2]).touch()
    time.sleep(300)
"""


def write(out: Path, content: str = "content") -> None:
    with output_folder(out, MARKER, SCHEMA) as (new, temporary):
        (temporary / "piece").write_text("half of it")
        (new / MARKER).write_text(json.dumps({"schema": SCHEMA}))
        (new / "file").write_text(content)


def fail(out: Path, error: BaseException) -> None:
    with output_folder(out, MARKER, SCHEMA) as (new, _):
        (new / MARKER).write_text(json.dumps({"schema": SCHEMA}))
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


WRITTEN = ["out", "out/file", f"out/{MARKER}"]


def test_a_new_folder(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "out")
    assert names(tmp_path / "a" / "b") == WRITTEN


def test_nothing_is_there_before_it_is_complete(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out", MARKER, SCHEMA) as (new, temporary):
        assert not (tmp_path / "out").exists()
        assert new.stat().st_dev == temporary.stat().st_dev == tmp_path.stat().st_dev
    assert names(tmp_path) == ["out"]


def test_one_of_ours_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    (tmp_path / "out" / "more").touch()
    write(tmp_path / "out", "new")
    assert names(tmp_path) == WRITTEN
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert names(tmp_path) == WRITTEN


def make_file(out: Path) -> None:
    out.write_text("mine")


def make_folder(out: Path) -> None:
    out.mkdir()
    (out / "mine").touch()


def make_other_schema(out: Path) -> None:
    out.mkdir()
    (out / MARKER).write_text('{"schema": "corepress.other/1"}')


def make_broken_marker(out: Path) -> None:
    out.mkdir()
    (out / MARKER).write_text("[")


def make_link(out: Path) -> None:
    write(out.with_name("elsewhere"))
    out.symlink_to("elsewhere")


def make_dangling_link(out: Path) -> None:
    out.symlink_to("nowhere")


@pytest.mark.parametrize(
    "make",
    [make_file, make_folder, make_other_schema, make_broken_marker, make_link, make_dangling_link],
)
def test_what_is_not_ours_is_left(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "out")
    before = names(tmp_path)
    with pytest.raises(OutputConflict) as refused:
        write(tmp_path / "out")
    assert refused.value.path == str(tmp_path / "out")
    assert names(tmp_path) == before


def test_what_came_meanwhile_is_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputConflict), output_folder(out, MARKER, SCHEMA):
        make_folder(out)
    assert names(tmp_path) == ["out", "out/mine"]


@pytest.mark.parametrize("error", [KeyError("bug"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail(tmp_path / "out", error)
    assert names(tmp_path) == []
    write(tmp_path / "out", "old")
    with pytest.raises(type(error)):
        fail(tmp_path / "out", error)
    assert names(tmp_path) == WRITTEN
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="out"):
        fail(tmp_path / "out", OSError(errno.ENOSPC, "No space left on device"))
    assert names(tmp_path) == []


def test_a_place_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputConflict, match="file"):
        write(tmp_path / "file" / "out")


@pytest.fixture
def writer(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A process that writes to ``out`` and does not come to an end."""
    began = tmp_path / "began"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "place" / "out"), str(began)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    deadline_s = time.monotonic() + 60
    while not began.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return process


def test_leftovers_of_a_killed_process_are_removed(
    tmp_path: Path, writer: subprocess.Popen[bytes]
) -> None:
    writer.kill()
    writer.wait()
    assert not (tmp_path / "place" / "out").exists()
    (tmp_path / "place" / ".other.corepress-x").mkdir()
    assert len(list((tmp_path / "place").iterdir())) == 2
    write(tmp_path / "place" / "out")
    assert names(tmp_path / "place") == [".other.corepress-x", *WRITTEN]


def test_what_a_living_process_writes_is_no_leftover(
    tmp_path: Path, writer: subprocess.Popen[bytes]
) -> None:
    try:
        write(tmp_path / "place" / "out")
        (left,) = (tmp_path / "place").glob(".out.corepress-*")
        assert (left / "new" / MARKER).exists()
    finally:
        writer.kill()
        writer.wait()


def test_many_writers_of_one_place(tmp_path: Path) -> None:
    def attempt(number: int) -> bool:
        try:
            write(tmp_path / "out", str(number))
        except OutputConflict:  # another's folder came between looking and moving
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert any(pool.map(attempt, range(60)))
    assert names(tmp_path) == WRITTEN
