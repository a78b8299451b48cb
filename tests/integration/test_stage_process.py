"""Stages in a process of their own: what they tell comes through, nothing outlives its parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from runtime_support import fetch_task, script_of, stage_process

from corepress.domain.errors import (
    CorruptCheckpoint,
    DiskFull,
    InternalError,
    SourceUnavailable,
)
from corepress.domain.stage import Task
from corepress.runtime import stage_process as module
from corepress.runtime.stage_process import StageProcess

PARENT = """
import json, sys
from pathlib import Path
from corepress.domain.stage import Task
from runtime_support import stage_process

with stage_process(Path(sys.argv[1])) as process:
    process.run(Task.from_document(json.loads(sys.argv[2])), print)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[StageProcess]:
    with stage_process(tmp_path) as process:
        yield process


def ignore(*_: Any) -> None:
    pass


def pids(task: Task) -> list[int]:
    """The processes that did the runs of a task."""
    lines = script_of(task).journal.read_text().splitlines()
    return [int(line.split()[1]) for line in lines]


def family(task: Task) -> list[psutil.Process]:
    """The stage's process and the program that it started, once both run."""
    told = script_of(task).journal.with_suffix(".pids")
    deadline_s = time.monotonic() + 60
    while not told.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return [psutil.Process(int(pid)) for pid in told.read_text().split()]


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_outputs_progress_and_figures(process: StageProcess, tmp_path: Path) -> None:
    reports: list[Any] = []
    run = process.run(fetch_task(tmp_path), lambda *report: reports.append(report))
    assert run.outputs.artifacts.keys() == {"source", "index"}
    assert reports == [("fetch", 1, 1, "part")]
    assert run.seconds > 0
    assert run.peak_memory_bytes > 1 << 20


def test_one_process_serves_many_tasks(process: StageProcess, tmp_path: Path) -> None:
    task = fetch_task(tmp_path)
    for _ in range(3):
        process.run(task, ignore)
    assert len(set(pids(task))) == 1


def test_a_process_that_holds_memory_is_replaced(
    process: StageProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEEP_BELOW_BYTES", 1)
    task = fetch_task(tmp_path)
    for _ in range(2):
        process.run(task, ignore)
    assert len(set(pids(task))) == 2


def test_what_is_printed_is_no_answer(process: StageProcess, tmp_path: Path) -> None:
    reports: list[Any] = []
    process.run(fetch_task(tmp_path, "chat"), lambda *report: reports.append(report))
    assert {len(report) for report in reports} == {4}
    assert reports[-1] == ("fetch", 1, 1, "part")
    assert "not an answer" in (tmp_path / "stage-process.log").read_text()


def test_errors_come_through(process: StageProcess, tmp_path: Path) -> None:
    task = fetch_task(tmp_path, "permanent", "transient", "disk full", "bug")
    with pytest.raises(CorruptCheckpoint, match="cut off") as permanent:
        process.run(task, ignore)
    assert (permanent.value.hint, permanent.value.path) == ("fetch it again", "model.bin")
    with pytest.raises(SourceUnavailable) as transient:
        process.run(task, ignore)
    assert transient.value.retry_after_s == 0.02
    with pytest.raises(DiskFull):
        process.run(task, ignore)
    with pytest.raises(InternalError, match="KeyError") as bug:
        process.run(task, ignore)
    assert "synthetic_stages.py" in bug.value.message  # the whole traceback
    process.run(task, ignore)
    assert len(set(pids(task))) == 1


@pytest.mark.parametrize("deed", ["killed", "killed as a parent"])
def test_a_kill_costs_one_task(process: StageProcess, tmp_path: Path, deed: str) -> None:
    task = fetch_task(tmp_path, deed)
    with pytest.raises(InternalError, match="memory ran out"):
        process.run(task, ignore)
    process.run(task, ignore)
    assert len(set(pids(task))) == 2


def test_the_last_words_of_a_process_are_told(process: StageProcess, tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="status 3") as error:
        process.run(fetch_task(tmp_path, "leave"), ignore)
    assert "last words" in error.value.message


def test_a_process_that_dies_idle_is_replaced(process: StageProcess, tmp_path: Path) -> None:
    task = fetch_task(tmp_path)
    process.run(task, ignore)
    (first,) = pids(task)
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first)], timeout=20)
    process.run(task, ignore)
    assert len(set(pids(task))) == 2


def test_files_of_a_task_go_with_it(process: StageProcess, tmp_path: Path) -> None:
    task = fetch_task(tmp_path, "look around")
    process.run(task, ignore)
    found = json.loads(script_of(task).journal.with_suffix(".json").read_text())
    assert Path(found["temporary"]).parent == Path(found["scratch"])
    assert list((tmp_path / "stage-process-scratch").iterdir()) == []


def test_files_of_a_killed_task_go_too(process: StageProcess, tmp_path: Path) -> None:
    with pytest.raises(InternalError):
        process.run(fetch_task(tmp_path, "killed"), ignore)
    assert not (tmp_path / "stage-process-scratch").exists()


def test_an_interrupted_conversation_is_not_continued(
    process: StageProcess, tmp_path: Path
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    task = fetch_task(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        process.run(task, interrupt)
    other = fetch_task(tmp_path)
    outputs = process.run(other, ignore).outputs
    assert outputs != process.run(task, ignore).outputs  # each script is another file
    assert outputs == process.run(other, ignore).outputs


@pytest.mark.parametrize("deed", ["hang", "hang in a library"])
def test_nothing_outlives_a_killed_parent(tmp_path: Path, deed: str) -> None:
    task = fetch_task(tmp_path, deed)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), json.dumps(task.document())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        processes = family(task)
        processes += psutil.Process(parent.pid).children(recursive=True)
        assert len(set(processes)) == 3  # with the guard
    finally:
        parent.kill()
        parent.wait()
    assert_gone(processes)


def test_nothing_outlives_a_killed_stage(process: StageProcess, tmp_path: Path) -> None:
    task = fetch_task(tmp_path, "killed as a parent")
    with pytest.raises(InternalError):
        process.run(task, ignore)
    (pid,) = pids(task)
    assert_gone([process for process in psutil.process_iter() if group(process) == pid])


def group(process: psutil.Process) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(process.pid)
    return None
