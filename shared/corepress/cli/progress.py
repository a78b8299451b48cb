"""Progress on stderr: bars on a terminal, a line per step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from corepress.cli.output import size_text, words
from corepress.ports.telemetry import NodeRef


class ProgressDisplay:
    """A `corepress.ports.telemetry.Telemetry` for people."""

    def __init__(self) -> None:
        self._bars = _bars() if sys.stderr.isatty() else None
        self._tasks: dict[str, TaskID] = {}
        self.actions: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.stop()

    def activity(self, name: str, done: float, total: float, unit: str = "B") -> None:
        """An activity came this far; ``unit`` is ``B`` for bytes."""
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, bytes=unit == "B")
        self._bars.update(self._tasks[name], completed=done, total=total)

    def started(self, ref: NodeRef, attempt: int) -> None:
        """The stage begins to run."""
        self.say(f"{ref.node} ..." if attempt == 1 else f"{ref.node} ... attempt {attempt}")

    def progress(self, ref: NodeRef, activity: str, done: float, total: float, unit: str) -> None:
        """An activity of the running stage came this far."""
        self.activity(f"{ref.node}: {activity}", done, total, unit)

    def finished(self, ref: NodeRef, cached: bool, figures: Mapping[str, Any]) -> None:
        """The action is committed."""
        self.actions[ref.node] = {"cached": cached, **figures}
        if cached:
            self.say(f"{ref.node}: done before")
            return
        memory = size_text(figures["peak_memory_bytes"])
        self.say(f"{ref.node}: {figures['seconds']:.1f} s, {memory} of memory")

    def retried(self, ref: NodeRef, error: Mapping[str, Any], delay_s: float) -> None:
        """The delivery failed for now."""
        self.say(f"{ref.node}: {error['message']} (again in {delay_s:.0f} s)")

    def failed(self, ref: NodeRef, error: Mapping[str, Any]) -> None:
        """The delivery failed for good."""
        self.say(f"{ref.node}: {words(dict(error))}")

    def say(self, line: str) -> None:
        if self._bars:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
