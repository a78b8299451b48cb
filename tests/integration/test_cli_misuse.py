"""What a user may get wrong, and what the machine may refuse: clear answers, nothing left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import COMMAND, Finished, corepress, files_below, tiny_arguments, write_recipe
from filelock import FileLock

SMALL = {"sizes": [[32, 32]], "components": ["text_encoder"]}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path, "small", **SMALL)


def run(recipe: Path, *arguments: str | Path, status: int) -> Finished:
    return corepress(
        "run", *tiny_arguments("sd15"), "--recipe", recipe, *arguments, "--json", status=status
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["run"],
        ["run", "model.safetensors"],
        ["run", "model.safetensors", "--recipe", "original"],
        ["run", "a/x.safetensors", "b/x.safetensors", "--recipe", "original", "--out", "out"],
        ["run", "a", "--recipe", "original", "--out", "out", "--name", "../a"],
        ["normalize", "model.safetensors"],
        ["inspect", "model.safetensors", "--precision", "fp8"],
        ["inspect", "model.safetensors", "--clip-skip", "0"],
        ["frobnicate"],
    ],
)
def test_a_wrong_command_line(arguments: list[str], tmp_path: Path) -> None:
    finished = corepress(*arguments, status=2, cwd=tmp_path)
    assert "Usage:" in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_command_line_in_json(tmp_path: Path) -> None:
    for arguments in (
        ["run", "model.safetensors"],
        ["inspect", "--clip-skip", "0"],
        ["frobnicate"],
    ):
        error = corepress(*arguments, "--json", status=2, cwd=tmp_path).document["error"]
        assert error["code"] == "usage"
        assert error["message"]
        assert "--help" in error["hint"]


def test_a_source_whose_name_is_no_unicode(recipe: Path, tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"gr\xf6\xdfer.safetensors")  # Latin-1, as on an old disk
    try:
        source.symlink_to(tiny_arguments("sd15")[0])
    except OSError:
        pytest.skip("a file system of Unicode names")
    arguments = (source, "--recipe", recipe, "--out", tmp_path / "out", "--state", tmp_path / "s")
    error = corepress("run", *arguments, "--json", status=3).document["error"]
    assert error["code"] == "invalid-request"
    assert "UTF-8" in error["message"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [".nan", "!!bool maybe", "!!timestamp soon"])
def test_a_configuration_of_what_json_has_not(tmp_path: Path, value: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {{trained: 2023-07-26, 1: a, scale: {value}}}\n")
    source = tiny_arguments("sd15")[0]
    finished = corepress("inspect", source, "--original-config", config, "--json", status=3)
    assert finished.document["error"]["code"] == "missing-config"
    assert str(config) in finished.document["error"]["message"]


def test_a_recipe_that_is_none(tmp_path: Path) -> None:
    unknown = run(Path("orignal"), "--out", tmp_path / "out", status=3).document["error"]
    assert unknown["code"] == "unsupported-recipe"
    assert "original" in unknown["hint"]
    typo = tmp_path / "typo.yaml"
    typo.write_text("name: typo\nsizes: native\nattenton: original\n")
    mistyped = run(typo, "--out", tmp_path / "out", status=3).document["error"]
    assert mistyped["code"] == "unsupported-recipe"
    assert f"{typo}:3: attenton: no such key" in mistyped["message"]
    assert not (tmp_path / "out").exists()


def test_a_size_that_does_not_suit(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "odd", sizes=[[33, 32]], components=["unet"])
    error = run(
        recipe, "--out", tmp_path / "out", "--state", tmp_path / "state", status=3
    ).document["error"]
    assert error["code"] == "unsupported-recipe"
    assert "33x32" in error["message"]
    assert error["hint"] == "use 32x32"
    assert not (tmp_path / "out").exists()


def test_an_output_folder_of_somebody_else(recipe: Path, tmp_path: Path) -> None:
    """It is refused before any work is done, and stays as it is."""
    mine = tmp_path / "out" / "model" / "small" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    state = tmp_path / "state"
    finished = run(recipe, "--out", tmp_path / "out", "--state", state, status=3)
    assert finished.document["error"]["code"] == "output-conflict"
    assert files_below(tmp_path / "out") == {"model/small/mine.txt": b"mine"}
    assert not state.exists()


@pytest.mark.parametrize("place", ["/proc/corepress", "file/below"])
def test_places_that_cannot_be_written(recipe: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    state = run(recipe, "--out", tmp_path / "out", "--state", tmp_path / place, status=4).document[
        "error"
    ]
    assert state["code"] == "store-unavailable"
    out = corepress(
        *("normalize", *tiny_arguments("sd15"), "--out", tmp_path / place, "--json"), status=3
    ).document["error"]
    assert out["code"] == "output-conflict"
    before_work = run(recipe, "--out", tmp_path / place, "--state", tmp_path / "state", status=3)
    assert before_work.document["error"]["code"] == "output-conflict"
    assert not (tmp_path / "state").exists()


def test_a_state_folder_in_use(recipe: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with FileLock(state / "lock"):
        finished = run(recipe, "--out", tmp_path / "out", "--state", state, status=4)
    assert finished.document["error"]["code"] == "store-busy"
    assert "--state" in finished.document["error"]["hint"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of sixteen megabytes."""
    if os.geteuid() or sys.platform != "linux":
        pytest.skip("mounting a small disk takes root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "corepress-test", str(disk)], check=True
    )
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path, all_but_bytes: int = 0) -> Path:
    """A file that leaves so much of a disk free."""
    free_bytes = shutil.disk_usage(disk).free
    filler = disk / "filler"
    filler.write_bytes(bytes(free_bytes - all_but_bytes))
    return filler


def test_a_disk_too_small_is_refused_before_anything_is_written(small_disk: Path) -> None:
    """`inspect` says how much it takes: a little less is refused, as much is enough."""
    needs = corepress("inspect", *tiny_arguments("sd15"), "--json").document["needs"]
    needed_bytes = needs["by_command"]["normalize"]["disk_bytes"]
    normalize = ("normalize", *tiny_arguments("sd15"), "--out", small_disk / "out", "--json")
    filler = fill(small_disk, needed_bytes - 4096)
    error = corepress(*normalize, status=4).document["error"]
    assert error["code"] == "disk-full"
    assert f"{needed_bytes:,} bytes are needed" in error["message"]
    assert str(small_disk) in error["message"]
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    filler.unlink()
    fill(small_disk, needed_bytes + (2 << 20))  # configurations, vocabularies, folders
    corepress(*normalize)


def test_run_counts_what_its_state_folder_lacks(
    recipe: Path, tmp_path: Path, small_disk: Path
) -> None:
    """Where all is done already, no room is needed for it."""
    out = ("--out", tmp_path / "out", "--state", small_disk / "state")
    filler = fill(small_disk, 2 << 20)
    error = run(recipe, *out, status=4).document["error"]
    assert error["code"] == "disk-full"
    assert "bytes are needed" in error["message"]
    assert not (tmp_path / "out").exists()
    assert not list((small_disk / "state" / "blobs").iterdir())
    filler.unlink()
    first = run(recipe, *out, status=0)
    assert first.document["jobs"][0]["errors"] == {}
    fill(small_disk, 256 << 10)
    again = run(recipe, *out, status=0)
    assert all(action["cached"] for action in again.document["jobs"][0]["actions"].values())


def test_run_needs_room_for_what_it_publishes(
    recipe: Path, tmp_path: Path, small_disk: Path
) -> None:
    fill(small_disk, 50_000)
    finished = run(recipe, "--out", small_disk / "out", "--state", tmp_path / "state", status=4)
    assert finished.document["error"]["code"] == "disk-full"
    assert not (small_disk / "out").exists()


def test_a_disk_that_fills_up_all_the_same(small_disk: Path) -> None:
    """Vocabularies are not counted, and no room is left for them."""
    needs = corepress("inspect", *tiny_arguments("sd15"), "--json").document["needs"]
    fill(small_disk, needs["by_command"]["normalize"]["disk_bytes"] + 16384)
    out = corepress(
        "normalize", *tiny_arguments("sd15"), "--out", small_disk / "out", "--json", status=4
    )
    assert out.document["error"]["code"] == "disk-full"
    assert "no space left" in out.document["error"]["message"]
    assert not (small_disk / "out").exists()


def test_json_is_all_there_is_on_stdout(recipe: Path, tmp_path: Path) -> None:
    finished = run(recipe, "--out", tmp_path / "out", "--state", tmp_path / "state", status=0)
    (job,) = finished.document["jobs"]
    assert job["errors"] == {}
    assert "convert-text_encoder" in finished.stderr


def test_whoever_reads_may_stop_reading() -> None:
    command = [*COMMAND, "inspect", *tiny_arguments("sd15")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_bars_on_a_terminal(recipe: Path, tmp_path: Path) -> None:
    """`script` gives the command a terminal: a bar, and a line for each finished step."""
    arguments = ["run", *tiny_arguments("sd15"), "--recipe", str(recipe)]
    arguments += ["--state", str(tmp_path / "state"), "--out", str(tmp_path / "out")]
    command = " ".join([*COMMAND, *arguments])
    shown = subprocess.run(
        ["script", "--quiet", "--return", "--command", command, "/dev/null"],
        capture_output=True,
        text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160"},
        timeout=120,
        check=True,
    ).stdout
    assert "━" in shown
    assert "normalize ..." not in shown
    for step in ("fetch", "normalize", "convert-text_encoder", "publish-small"):
        assert f"{step}: " in shown
