"""``corepress run`` killed or stopped at any moment, and started again: the same bundle."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from cli_support import COMMAND, corepress, files_below, tiny_arguments, write_recipe

KILLS = 10


@dataclass(frozen=True)
class Uninterrupted:
    """A run of the smallest job that has every stage, nobody disturbing it."""

    recipe: Path
    bundle: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe = write_recipe(folder, "small", sizes=[[32, 32]], components=["text_encoder"])
    started_s = time.monotonic()
    corepress(*arguments(recipe, folder))
    return Uninterrupted(recipe, bundle(folder), time.monotonic() - started_s)


def arguments(recipe: Path, folder: Path) -> list[str]:
    return [
        *("run", *tiny_arguments("sd15"), "--recipe", str(recipe), "--json"),
        *("--state", str(folder / "state"), "--out", str(folder / "out")),
    ]


def bundle(folder: Path) -> dict[str, bytes]:
    return files_below(folder / "out")


def start(recipe: Path, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        # a background job ignores SIGINT and hands that on; what is caught starts anew in a process
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen([*COMMAND, *arguments(recipe, folder)], stdout=log, stderr=log)
        finally:
            signal.signal(signal.SIGINT, before)


def wait_for_line(folder: Path, line: str) -> None:
    deadline_s = time.monotonic() + 60
    while line not in (folder / "log").read_text():
        assert time.monotonic() < deadline_s, (folder / "log").read_text()
        time.sleep(0.02)


def committed(folder: Path) -> dict[str, int]:
    """The committed actions, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("state/actions/*.json")}


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("tenth", range(KILLS))
def test_killed_at_any_moment(reference: Uninterrupted, tmp_path: Path, tenth: int) -> None:
    moment = (tenth + random.Random(tenth).random()) / KILLS
    process = start(reference.recipe, tmp_path)
    try:
        time.sleep(moment * reference.seconds)
        family = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
    finally:
        process.kill()
    process.wait()
    assert_gone(family)
    before = committed(tmp_path)
    seen = files_below(tmp_path / "out")
    assert seen in ({}, reference.bundle) or all(path.startswith("model/.") for path in seen)

    again = corepress(*arguments(reference.recipe, tmp_path))
    assert bundle(tmp_path) == reference.bundle
    after = committed(tmp_path)
    assert before.items() <= after.items()  # none was done again
    (job,) = again.document["jobs"]
    assert sum(action["cached"] for action in job["actions"].values()) == len(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_the_user(
    reference: Uninterrupted, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(reference.recipe, tmp_path)
    try:
        wait_for_line(tmp_path, "convert-text_encoder")
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
    finally:
        process.kill()
    assert_gone(family)
    assert '"code": "interrupted"' in (tmp_path / "log").read_text()
    assert files_below(tmp_path / "out") == {}
    assert files_below(tmp_path / "state" / "tmp") == {}
