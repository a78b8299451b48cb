"""What a fleet file's jobs will take, told from headers and what the store has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click

from corepress.bootstrap import load_stages
from corepress.cli.fleet_rows import Row
from corepress.cli.fleet_table import summary_of
from corepress.cli.needs import forecast, read_headers
from corepress.cli.output import size_text
from corepress.cli.progress import ProgressDisplay
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import CorepressError
from corepress.domain.stage import Stage
from corepress.fleet import resolve_sources
from corepress.ports.store import Store
from corepress.runtime import jobs
from corepress_compile.forecast import compile_assumption

_READERS = 8


@dataclass(frozen=True, slots=True)
class JobForecast:
    """What a job will take: its steps, those done before, and what the others need.

    Of jobs that the fleet knows already, and where ``error`` says what is wrong, nothing.
    """

    row: Row
    steps: Sequence[str] = ()
    cached: Sequence[str] = ()
    disk_bytes: int = 0
    mac_minutes: float = 0.0
    error: Mapping[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """The forecast as JSON."""
        return self.row.document() | {
            "steps": list(self.steps),
            "cached": list(self.cached),
            "disk_bytes": self.disk_bytes,
            "mac_minutes": round(self.mac_minutes, 1),
            "error": self.error or self.row.document()["error"],
        }


@dataclass(frozen=True, slots=True)
class FleetForecast:
    """What the jobs of a fleet file will take together, if they share nothing."""

    jobs: Sequence[JobForecast]

    @property
    def disk_bytes(self) -> int:
        """What the store grows by."""
        return sum(job.disk_bytes for job in self.jobs)

    @property
    def mac_minutes(self) -> float:
        """Of one Mac."""
        return sum(job.mac_minutes for job in self.jobs)

    def document(self) -> dict[str, Any]:
        """The forecast as JSON."""
        return {
            "jobs": [job.document() for job in self.jobs],
            "disk_bytes": self.disk_bytes,
            "mac_minutes": round(self.mac_minutes, 1),
            "assumptions": {"disk_bytes": _SHARED, "mac_minutes": compile_assumption()},
        }


_SHARED = "at most: what several models have in common is stored once"


def forecast_fleet(rows: Sequence[Row], store: Store | None) -> FleetForecast:
    """What rows that are new will take; reads the headers of their sources.

    Args:
        rows: of a fleet file.
        store: tells what was done before; None: nothing was.
    """
    stages = load_stages()

    def look(row: Row) -> JobForecast:
        if row.state != "new":
            return JobForecast(row)
        try:
            return _forecast(row, stages, store)
        except CorepressError as error:
            return JobForecast(row, error=error.document())

    found = []
    with ThreadPoolExecutor(_READERS) as pool, ProgressDisplay() as display:
        for each in pool.map(look, rows):
            found.append(each)
            display.activity("read headers", len(found), len(rows), "model")
    return FleetForecast(found)


def _forecast(row: Row, stages: Mapping[str, Stage], store: Store | None) -> JobForecast:
    request = row.request
    headers = {role: read_headers(request, role) for role in (CHECKPOINT, *request.attachments)}
    needs = forecast(headers, request)
    cached: set[str] = set()
    if store is not None:
        cached = jobs.done_before(store, stages, *resolve_sources(request))
    missing = needs.steps.keys() - cached
    return JobForecast(
        row,
        steps=sorted(missing),
        cached=sorted(cached),
        disk_bytes=sum(needs.steps[step] for step in missing) + needs.published_bytes,
        mac_minutes=sum(needs.mac_minutes[step] for step in missing & needs.mac_minutes.keys()),
    )


def print_forecast(fleet: FleetForecast) -> None:
    """Tell people."""
    for job in fleet.jobs:
        click.echo(f"line {job.row.line}: {job.row.request.name}  {_told(job)}")
    faulty = sum(job.error is not None for job in fleet.jobs)
    told = f"; of the new ones {faulty} would fail" if faulty else ""
    click.echo(f"{len(fleet.jobs)} jobs: {summary_of([job.row for job in fleet.jobs])}{told}")
    click.echo(f"  disk  {size_text(fleet.disk_bytes)} ({_SHARED})")
    click.echo(f"  Macs  {fleet.mac_minutes:.0f} minutes ({compile_assumption()})")


def _told(job: JobForecast) -> str:
    error = job.document()["error"]
    if error is not None:
        return f"{error['code']}: {error['message']}"
    if job.row.state != "new":
        return job.row.state
    minutes = f", {job.mac_minutes:.0f} minutes of a Mac" if job.mac_minutes else ""
    return (
        f"{len(job.steps)} steps, {len(job.cached)} more were done before, "
        f"{size_text(job.disk_bytes)} of disk{minutes}"
    )
