"""``corepress run`` killed or stopped at any moment, and started again: the same bundle."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_support import corepress, files_below, tiny_arguments, write_recipe
from process_support import Started, assert_gone

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


def committed(folder: Path) -> dict[str, int]:
    """The committed actions, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("state/actions/*.json")}


@pytest.mark.parametrize("tenth", range(KILLS))
def test_killed_at_any_moment(reference: Uninterrupted, tmp_path: Path, tenth: int) -> None:
    moment = (tenth + random.Random(tenth).random()) / KILLS
    command = Started(arguments(reference.recipe, tmp_path), tmp_path / "log")
    time.sleep(moment * reference.seconds)
    command.kill()
    before = committed(tmp_path)
    seen = files_below(tmp_path / "out")
    assert seen in ({}, reference.bundle) or all(path.startswith("model/.") for path in seen)

    again = corepress(*arguments(reference.recipe, tmp_path))
    assert bundle(tmp_path) == reference.bundle
    after = committed(tmp_path)
    assert before.items() <= after.items()  # none was done again
    (job,) = again.document["jobs"]
    assert sum(action["cached"] for action in job["actions"].values()) == len(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_by_the_user(
    reference: Uninterrupted, tmp_path: Path, number: signal.Signals
) -> None:
    command = Started(arguments(reference.recipe, tmp_path), tmp_path / "log")
    command.wait_for("convert-text_encoder")
    family = command.family()
    command.process.send_signal(number)
    try:
        assert command.process.wait(timeout=60) == 128 + number
    finally:
        command.process.kill()
    assert_gone(family)
    assert '"code": "interrupted"' in command.said
    assert files_below(tmp_path / "out") == {}
    assert files_below(tmp_path / "state" / "tmp") == {}
