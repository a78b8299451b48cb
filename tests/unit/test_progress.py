"""What people see of a pipeline at work."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from io import StringIO, TextIOWrapper

import pytest
from rich.console import Console

from corepress.cli.progress import ProgressDisplay
from corepress.ports.telemetry import NodeRef

CONVERT = NodeRef("job", "convert-unet-512x512-0123abcd", "convert", 1)


def terminal() -> Console:
    return Console(file=StringIO(), force_terminal=True, width=120, legacy_windows=False)


def shown(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_bar_tells_step_activity_and_bytes() -> None:
    console = terminal()
    with ProgressDisplay(console) as display:
        display.started(CONVERT)
        display.progress(CONVERT, "save", 1e9, 4e9, "B")
    assert "convert-unet-512x512 save" in shown(console)
    assert "25%" in shown(console)
    assert "1.0 GB of 4.0 GB" in shown(console)


def test_what_is_counted_in_parts_shows_no_bytes() -> None:
    console = terminal()
    with ProgressDisplay(console) as display:
        display.progress(CONVERT, "check", 0.5, 1, "part")
    assert "50%" in shown(console)
    assert " of " not in shown(console)


def test_a_finished_step_leaves_a_line_and_no_bar() -> None:
    console = terminal()
    with ProgressDisplay(console) as display:
        display.progress(CONVERT, "save", 1e9, 4e9, "B")
        display.finished(CONVERT, False, {"seconds": 12.34, "peak_memory_bytes": 3e9})
        console.file = StringIO()
    assert "GB of" not in shown(console)
    assert display.actions[CONVERT.node]["cached"] is False


def test_the_work_goes_on_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as closed:
        monkeypatch.setattr(sys, "stderr", TextIOWrapper(closed, write_through=True))
        with ProgressDisplay(Console(file=StringIO())) as display:
            display.started(CONVERT)
            display.finished(CONVERT, False, {"seconds": 1.0, "peak_memory_bytes": 1})
    assert CONVERT.node in display.actions


def test_without_a_terminal_there_is_a_line_for_each_event(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressDisplay(Console(file=StringIO())) as display:
        display.started(CONVERT)
        display.progress(CONVERT, "save", 1e9, 4e9, "B")
        display.retried(CONVERT, {"message": "no answer"}, 2.0)
        display.started(replace(CONVERT, attempt=2))
        display.failed(CONVERT, {"code": "disk-full"})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "convert-unet-512x512 ...",
        "convert-unet-512x512: no answer (again in 2 s)",
        "convert-unet-512x512 ... again",
        "convert-unet-512x512: failed, disk-full",
    ]
