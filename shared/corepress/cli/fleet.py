"""``corepress fleet``: the jobs of a fleet file."""

from __future__ import annotations

import queue
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from corepress.cli.fleet_forecast import forecast_fleet, print_forecast
from corepress.cli.fleet_rows import BAD, ENDED, Row, counts_of, rows_of
from corepress.cli.fleet_table import FleetTable, line_of, summary_of
from corepress.cli.output import command, print_json
from corepress.cli.progress import ProgressDisplay
from corepress.config import Settings, read_settings
from corepress.domain.errors import InvalidRequest, TransientError, from_document
from corepress.ports.bus import INTAKE, Bus
from corepress.ports.store import Store
from corepress.runtime import job_index, oversight
from corepress.runtime.jobs import is_open
from corepress.submission.fleet_file import load_fleet
from corepress_intake.opening import refuse_hidden_sources

_LOOK_EVERY_S = 2.0
_CLIENTS = 8
"""Each waits for the bus to confirm one request after another."""


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--watch", is_flag=True, help="Show what becomes of the jobs until they end.")
@click.option("--again", is_flag=True, help="Have jobs that failed or were cancelled try again.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only tell what would be done, and what disk and minutes of a Mac it takes.",
)
@command
def fleet(file: Path, watch: bool, again: bool, dry_run: bool, as_json: bool) -> None:
    """Have the fleet convert the models of a fleet file.

    Submits what is new or changed since the last time. A model that cannot be submitted or
    fails stops no other.

    \b
    Examples:
      corepress fleet models.yaml --dry-run
      corepress fleet models.yaml --watch
    """
    from corepress.connections import open_store  # noqa: PLC0415  (see cli/submit.py)

    settings, jobs = read_settings(), load_fleet(file)
    if dry_run:
        known = None if settings.store is None else open_store(settings)
        forecast = forecast_fleet(rows_of(jobs, job_index.load(known) if known else {}), known)
        if as_json:
            print_json(forecast.document())
        else:
            print_forecast(forecast)
        return
    store = open_store(settings)
    rows = rows_of(jobs, job_index.load(store))
    _submit(settings, store, rows, again)
    if watch:
        _watch(store, rows)
    _conclude(rows, watch, as_json)


def _submit(settings: Settings, store: Store, rows: list[Row], again: bool) -> None:
    """Send what is new, the highest priorities first.

    Raises:
        BusUnavailable, AccessDenied: the bus does not take it.
    """
    from corepress.connections import open_bus  # noqa: PLC0415  (see cli/submit.py)

    wanted = ("new", "failed", "cancelled") if again else ("new",)
    waiting = []
    for row in sorted(rows, key=lambda row: -row.request.priority):
        if row.state in wanted:
            try:
                refuse_hidden_sources(row.request, settings.local_sources)
            except InvalidRequest as error:
                row.refuse(error)
            else:
                waiting.append(row)
    clients = [open_bus(settings) for _ in range(_CLIENTS)]
    idle: queue.SimpleQueue[Bus] = queue.SimpleQueue()
    for client in clients:
        idle.put(client)

    def send(row: Row) -> None:
        client = idle.get()
        try:
            _send(store, client, row)
        finally:
            idle.put(client)

    pool = ThreadPoolExecutor(_CLIENTS)
    try:
        with ProgressDisplay() as display:
            for done, _ in enumerate(pool.map(send, waiting), start=1):
                display.activity("submit", done, len(waiting), "job")
    finally:
        pool.shutdown(cancel_futures=True)
        for client in clients:
            client.close()


def _send(store: Store, bus: Bus, row: Row) -> None:
    """Send a job's request, or have it go on where it was begun before."""
    if row.entry is not None and is_open(store, row.job):
        oversight.try_again(store, bus, row.job)
    else:
        bus.publish(INTAKE, row.message, row.request.priority)
    row.sent()


def _watch(store: Store, rows: list[Row]) -> None:
    with FleetTable(rows) as table:
        table.refresh([row for row in rows if row.state in ENDED])
        while not all(row.state in ENDED for row in rows):
            time.sleep(_LOOK_EVERY_S)
            with suppress(TransientError):  # the store may answer next time
                index = job_index.load(store)
                table.refresh([row for row in rows if row.state != "refused" and row.update(index)])


def _conclude(rows: list[Row], watched: bool, as_json: bool) -> None:
    """Sum up; the exit status is that of the first job refused, or seen to fail."""
    bad = [row for row in rows if row.state in BAD]
    if as_json:
        document: dict[str, Any] = {
            "jobs": [row.document() for row in rows],
            "summary": counts_of(rows),
        }
        print_json(document)
    else:
        for row in bad:
            click.echo(line_of(row))
        click.echo(f"{len(rows)} jobs: {summary_of(rows)}")
        if not watched and any(row.state in ("failed", "cancelled") for row in rows):
            click.echo("--again has those try again that failed or were cancelled")
    fatal = [row for row in bad if watched or row.state == "refused"]
    if fatal:
        sys.exit(from_document(dict(fatal[0].error or {})).exit_code)
