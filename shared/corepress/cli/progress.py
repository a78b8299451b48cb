"""Progress on stderr: bars on a terminal, a line per step elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from corepress.cli.output import size_text
from corepress.ports.telemetry import NodeRef

_DIGEST = re.compile(r"-[0-9a-f]{8}$")


class ProgressDisplay:
    """A `corepress.ports.telemetry.Telemetry` for people: one bar for each running step."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._bars = _bars(console) if console.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._activities: dict[str, str] = {}
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
        """Something outside of a pipeline came this far; ``unit`` is ``B`` for bytes."""
        self._show(name, "", done, total, unit)

    def started(self, ref: NodeRef) -> None:
        """The stage begins to run."""
        if self._bars is None:
            self.say(f"{_label(ref)} ..." if ref.attempt == 1 else f"{_label(ref)} ... again")
        self._show(_label(ref), "starting", 0, 1, "part")

    def progress(self, ref: NodeRef, activity: str, done: float, total: float, unit: str) -> None:
        """An activity of the running stage came this far."""
        self._show(_label(ref), activity, done, total, unit)

    def finished(self, ref: NodeRef, cached: bool, figures: Mapping[str, Any]) -> None:
        """The action is committed."""
        self.actions[ref.node] = {"cached": cached, **figures}
        if cached:
            self._end(ref, "done before")
            return
        memory = size_text(figures["peak_memory_bytes"])
        self._end(ref, f"{figures['seconds']:.1f} s, {memory} of memory")

    def retried(self, ref: NodeRef, error: Mapping[str, Any], delay_s: float) -> None:
        """The delivery failed for now."""
        self._end(ref, f"{error['message']} (again in {delay_s:.0f} s)")

    def failed(self, ref: NodeRef, error: Mapping[str, Any]) -> None:
        """The delivery failed for good."""
        self._end(ref, f"failed, {error['code']}")

    def say(self, line: str) -> None:
        """Print a line for good, above the bars; where nobody listens, the work goes on."""
        if self._bars:
            self._bars.console.print(line, markup=False, highlight=False)
            return
        with suppress(BrokenPipeError):
            click.echo(line, err=True)

    def _show(self, label: str, activity: str, done: float, total: float, unit: str) -> None:
        if self._bars is None:
            return
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, activity="", amount="")
        task = self._tasks[label]
        if self._activities.get(label) != activity:  # so that the time left is this one's
            self._activities[label] = activity
            self._bars.reset(task)
        in_bytes = unit == "B"
        self._bars.update(
            task,
            completed=done,
            total=total if done or in_bytes else None,  # a bar that moves, but nowhere
            activity=activity,
            amount=f"{size_text(done)} of {size_text(total)}" if in_bytes else "",
        )

    def _end(self, ref: NodeRef, outcome: str) -> None:
        label = _label(ref)
        task = self._tasks.pop(label, None)
        self._activities.pop(label, None)
        if self._bars and task is not None:
            self._bars.remove_task(task)
        self.say(f"{label}: {outcome}")


def _label(ref: NodeRef) -> str:
    """A node's name without the digest that tells it from its like."""
    return _DIGEST.sub("", ref.node)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        TextColumn("{task.fields[activity]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
