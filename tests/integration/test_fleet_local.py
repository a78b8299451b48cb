"""``make fleet-local`` as a newcomer runs it: one command, Ctrl-C, and nothing is left."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from bundle_support import READ, SOURCE
from cli_support import corepress, write_recipe
from process_support import assert_gone

PROGRAM = Path(__file__).parents[1] / "fleet_local.py"
_PATIENCE_S = 120.0


def started(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, PROGRAM, folder], stdout=file, stderr=file, process_group=0
        )


def wait_for(words: str, fleet: subprocess.Popen[bytes], log: Path) -> str:
    deadline_s = time.monotonic() + _PATIENCE_S
    while words not in (said := log.read_text()):
        assert fleet.poll() is None, said
        assert time.monotonic() < deadline_s, said
        time.sleep(0.05)
    return said


def processes_of(folder: Path) -> list[psutil.Process]:
    """All that run for a fleet: each has its folder in its environment or command line."""

    def is_of(process: psutil.Process) -> bool:
        try:
            words = [*process.environ().values(), *process.cmdline()]
        except psutil.Error:
            return False
        return any(str(folder) in word for word in words)

    return [process for process in psutil.process_iter() if is_of(process)]


def test_it_takes_a_job_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, log = tmp_path / "a fleet", tmp_path / "log"
    fleet = started(folder, log)
    try:
        said = wait_for("Ctrl-C stops everything", fleet, log)
        (line,) = re.findall(r"^  \. (.+)$", said, re.MULTILINE)
        (settings,) = shlex.split(line)
        for each in shlex.split(Path(settings).read_text()):
            name, is_set, value = each.partition("=")
            if is_set:
                monkeypatch.setenv(name, value)
        recipe = write_recipe(tmp_path, "small", components=["text_encoder"])
        corepress("submit", SOURCE, "--recipe", recipe, "--name", "tiny", *READ, "--watch")
        (entry,) = corepress("catalogue", "--json").document["publications"]
        assert (entry["name"], entry["build"]) == ("tiny", "small")
    finally:
        family = processes_of(folder)
        os.killpg(fleet.pid, signal.SIGINT)  # as a terminal does, to all in the foreground
        status = fleet.wait(_PATIENCE_S)
    assert status == 0, log.read_text()
    assert log.read_text().endswith("stopping ...\nstopped\n")
    assert len(family) > 5
    assert_gone(family)


def test_stopped_while_it_starts(tmp_path: Path) -> None:
    folder, log = tmp_path / "fleet", tmp_path / "log"
    fleet = started(folder, log)
    wait_for("starting RabbitMQ", fleet, log)
    while not processes_of(folder / "rabbitmq"):
        time.sleep(0.01)
    os.killpg(fleet.pid, signal.SIGINT)
    assert fleet.wait(_PATIENCE_S) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert_gone(processes_of(folder))
