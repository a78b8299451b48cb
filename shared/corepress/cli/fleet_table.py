"""A fleet's jobs on a terminal: a live table while they run, lines elsewhere, and a summary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from corepress.cli.fleet_rows import BAD, ENDED, Row, counts_of

_ORDER = ("done", "running", "submitted", "new", "failed", "cancelled", "refused")
_COLOURS = {"done": "green", "running": "cyan", "failed": "red", "refused": "red"}
_MOST_RUNNING, _MOST_BAD = 12, 8


class FleetTable:
    """Shows rows on stderr as they change: on a terminal a table, elsewhere a line for each end."""

    def __init__(self, rows: Sequence[Row], console: Console | None = None) -> None:
        self._rows = rows
        console = console or Console(stderr=True)
        self._live = Live(console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def refresh(self, changed: Sequence[Row]) -> None:
        """Show the rows as they are now, of which these changed."""
        if self._live:
            self._live.update(self._table())
            return
        for row in changed:
            if row.state in ENDED:
                click.echo(line_of(row), err=True)

    def _table(self) -> Group:
        counts = counts_of(self._rows)
        ended = sum(counts.get(state, 0) for state in ENDED)
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=len(self._rows), completed=ended, width=40)
        head.add_row(bar, f"{ended} of {len(self._rows)}", summary_of(self._rows))
        table = Table(box=None, pad_edge=False)
        for column in ("line", "job", "state", ""):
            table.add_column(column, overflow="ellipsis", no_wrap=True)
        running = [row for row in self._rows if row.state == "running"]
        for row in running[:_MOST_RUNNING]:
            opened_s = row.entry.opened_s if row.entry else None
            since = f"{time.time() - opened_s:.0f} s" if opened_s else ""
            table.add_row(*_cells(row), since)
        bad = [row for row in self._rows if row.state in BAD]
        for row in bad[-_MOST_BAD:]:
            table.add_row(*_cells(row), Text(_why(row)))
        return Group(head, table)


def line_of(row: Row) -> str:
    """A row for people."""
    name = row.job or row.request.name
    return f"line {row.line}: {name}  {row.state}" + (f"  {_why(row)}" if _why(row) else "")


def summary_of(rows: Sequence[Row]) -> str:
    """How many jobs are in each state: ``3 done, 1 failed``."""
    counts = counts_of(rows)
    return ", ".join(f"{counts[state]} {state}" for state in _ORDER if state in counts)


def _cells(row: Row) -> tuple[Text, Text, Text]:
    state = Text(row.state, style=_COLOURS.get(row.state, ""))
    return Text(str(row.line)), Text(row.job or row.request.name), state


def _why(row: Row) -> str:
    if row.error is None or row.state not in BAD:
        return ""
    return f"{row.error['code']}: {row.error['message']}"
