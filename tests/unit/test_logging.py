"""The structured log: a line of JSON for every hook, and everything is passed on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from corepress.adapters.logging import logged
from corepress.domain.errors import InvalidRequest
from corepress.ports.telemetry import NodeRef

REF = NodeRef("job-1", "convert-unet", "convert", attempt=2)
WHERE = {"job": "job-1", "node": "convert-unet", "stage": "convert", "attempt": 2}
ERROR = {"code": "disk-full", "message": "größer\nas it seems", "hint": "", "path": ""}


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def started(self, ref: NodeRef) -> None:
        self.told.append((ref,))

    def progress(self, ref: NodeRef, activity: str, done: float, total: float, unit: str) -> None:
        self.told.append((ref, activity, done, total, unit))

    def finished(self, ref: NodeRef, cached: bool, figures: Mapping[str, Any]) -> None:
        self.told.append((ref, cached, figures))

    def retried(self, ref: NodeRef, error: Mapping[str, Any], delay_s: float) -> None:
        self.told.append((ref, error, delay_s))

    def failed(self, ref: NodeRef, error: Mapping[str, Any]) -> None:
        self.told.append((ref, error))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_hook_is_a_line(tmp_path: Path) -> None:
    log, listener = tmp_path / "log.jsonl", Listener()
    figures = {"seconds": 1.5, "peak_memory_bytes": 10**9}
    before = datetime.now(UTC)
    with logged(listener, log) as telemetry:
        telemetry.started(REF)
        telemetry.progress(REF, "save", 1, 4, "B")
        telemetry.retried(REF, ERROR, 2.0)
        telemetry.finished(REF, False, figures)
        telemetry.failed(REF, ERROR)
        found = lines(log)  # each is there at once
    for line in found:
        assert before <= datetime.fromisoformat(line.pop("time")) <= datetime.now(UTC)
    assert found == [
        {"event": "started", "level": "info", **WHERE},
        {
            **{"event": "progress", "level": "debug", "activity": "save"},
            **{"done": 1, "total": 4, "unit": "B", **WHERE},
        },
        {"event": "retried", "level": "warning", "error": ERROR, "delay_s": 2.0, **WHERE},
        {"event": "finished", "level": "info", "cached": False, **figures, **WHERE},
        {"event": "failed", "level": "error", "error": ERROR, **WHERE},
    ]
    assert listener.told == [
        (REF,),
        (REF, "save", 1, 4, "B"),
        (REF, ERROR, 2.0),
        (REF, False, figures),
        (REF, ERROR),
    ]


def test_a_log_is_continued(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for _ in range(2):
        with logged(Listener(), log) as telemetry:
            telemetry.started(REF)
    assert [line["event"] for line in lines(log)] == ["started", "started"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_stops_no_work() -> None:
    listener = Listener()
    with logged(listener, Path("/dev/full")) as telemetry:
        telemetry.started(REF)
        telemetry.failed(REF, ERROR)
    assert listener.told == [(REF,), (REF, ERROR)]


def test_without_a_log_telemetry_is_as_it_was() -> None:
    listener = Listener()
    with logged(listener, None) as telemetry:
        assert telemetry is listener


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="log"), logged(Listener(), tmp_path):
        pass
