"""Structured logs: what the runtime tells, as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from logging import DEBUG, ERROR, INFO, WARNING
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from corepress.domain.errors import InvalidRequest
from corepress.ports.telemetry import NodeRef, Telemetry


@contextmanager
def logged(telemetry: Telemetry, log: Path | None) -> Iterator[Telemetry]:
    """The same telemetry, with every hook written to the end of a file; None leaves it as it is.

    Raises:
        InvalidRequest: the file cannot be written to.
    """
    if log is None:
        yield telemetry
        return
    try:
        file = log.open("ab", buffering=0)
    except OSError as error:
        raise InvalidRequest(
            f"the log {log} cannot be written to: {error.strerror}",
            hint="$COREPRESS_LOG names a file",
            path=str(log),
        ) from error
    with file:
        yield JsonLog(file, telemetry)


class JsonLog:
    """A `corepress.ports.telemetry.Telemetry` that writes down what it passes on.

    Each line has ``time``, ``level``, ``event`` (the hook), ``job``, ``node``, ``stage``,
    ``attempt``, and what else the hook tells. A full disk costs lines, never the work.
    """

    def __init__(self, file: BinaryIO, then: Telemetry) -> None:
        self._then = then
        self._log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            structlog.BytesLogger(file),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                structlog.processors.add_log_level,
                structlog.processors.JSONRenderer(_as_bytes),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(DEBUG),
        )

    def started(self, ref: NodeRef) -> None:
        """The stage begins to run."""
        self._write(INFO, "started", ref)
        self._then.started(ref)

    def progress(self, ref: NodeRef, activity: str, done: float, total: float, unit: str) -> None:
        """An activity of the running stage came this far."""
        self._write(DEBUG, "progress", ref, activity=activity, done=done, total=total, unit=unit)
        self._then.progress(ref, activity, done, total, unit)

    def finished(self, ref: NodeRef, cached: bool, figures: Mapping[str, Any]) -> None:
        """The action is committed."""
        self._write(INFO, "finished", ref, cached=cached, **figures)
        self._then.finished(ref, cached, figures)

    def retried(self, ref: NodeRef, error: Mapping[str, Any], delay_s: float) -> None:
        """The delivery failed for now."""
        self._write(WARNING, "retried", ref, error=dict(error), delay_s=delay_s)
        self._then.retried(ref, error, delay_s)

    def failed(self, ref: NodeRef, error: Mapping[str, Any]) -> None:
        """The delivery failed for good."""
        self._write(ERROR, "failed", ref, error=dict(error))
        self._then.failed(ref, error)

    def _write(self, level: int, event: str, ref: NodeRef, **fields: Any) -> None:
        with suppress(OSError):
            self._log.log(level, event, **asdict(ref), **fields)


def _as_bytes(fields: Mapping[str, Any], **options: Any) -> bytes:
    return json.dumps(fields, **options).encode()
