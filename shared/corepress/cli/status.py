"""``corepress status``, ``watch`` and ``cancel``: what becomes of the fleet's jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args

import click
from pydantic_core import to_json

from corepress.cli.job_report import conclude, job_document, lack_words
from corepress.cli.output import command, print_json, words
from corepress.config import read_settings
from corepress.runtime import job_index, jobs, oversight
from corepress.runtime.job_events import history
from corepress.runtime.job_index import Entry, State


@click.command()
@click.argument("job", required=False)
@click.option(
    "--state",
    "states",
    type=click.Choice(get_args(State)),
    multiple=True,
    help="Only jobs in this state; repeatable.",
)
@click.option("--tag", help="Only jobs with this tag.")
@command
def status(job: str | None, states: tuple[State, ...], tag: str | None, as_json: bool) -> None:
    """Show the fleet's jobs, or one of them with its steps.

    \b
    Examples:
      corepress status --state running
      corepress status model-0a1b2c3d4e5f
    """
    from corepress.connections import open_store  # noqa: PLC0415  (see cli/submit.py)

    settings = read_settings()
    store = open_store(settings)
    if job is not None:
        document = job_document(settings, store, job)
        document["events"] = [
            {"kind": event.kind, "at": _time(event.at_s), **event.data}
            for event in history(store, job)
        ]
        if as_json:
            print_json(document)
        else:
            _print_job(document)
        return
    entries = [
        entry
        for entry in job_index.load(store).values()
        if (not states or entry.state in states) and (tag is None or tag in entry.tags)
    ]
    if as_json:
        # json.dumps would take a third of a second for ten thousand
        click.echo(to_json({"jobs": [_document(entry) for entry in entries]}, indent=2))
    else:
        _print_jobs(entries)


@click.command()
@click.argument("job")
@command
def watch(job: str, as_json: bool) -> None:
    """Show the steps of a job, with bytes and the time that is left, until it ends.

    The exit status is that of `run`.

    \b
    Example:
      corepress watch model-0a1b2c3d4e5f
    """
    from corepress.cli.watching import watch_jobs  # noqa: PLC0415  (status needs no display)
    from corepress.connections import open_store  # noqa: PLC0415  (see cli/submit.py)

    settings = read_settings()
    jobs.request_of(open_store(settings), job)
    conclude(watch_jobs(settings, [job]), as_json)


@click.command()
@click.argument("job")
@command
def cancel(job: str, as_json: bool) -> None:
    """End a job; its running steps are stopped within seconds.

    \b
    Example:
      corepress cancel model-0a1b2c3d4e5f
    """
    from corepress.connections import open_bus, open_store  # noqa: PLC0415  (see cli/submit.py)

    settings = read_settings()
    bus = open_bus(settings)
    try:
        was_at_work = oversight.cancel(open_store(settings), bus, job)
    finally:
        bus.close()
    if as_json:
        print_json({"job": job, "cancelled": was_at_work})
    else:
        click.echo(f"{job}  {'cancelled' if was_at_work else 'had ended before'}")


def _print_job(document: dict[str, Any]) -> None:
    steps = document["steps"]
    click.echo(f"{document['job']}  {document['state']}")
    click.echo(f"  source  {document['source']}")
    click.echo(f"  steps   {steps['settled']} of {steps['known']} known by now are settled")
    for event in document["events"]:
        what = event.get("node", "")
        more = f"{event['seconds']:.1f} s" if "seconds" in event else ""
        click.echo(f"  {event['at']}  {event['kind']:<13} {what}  {more}".rstrip())
    for stage in document["no_worker_for"]:
        click.echo(f"  {lack_words(stage)}")
    for build in document["builds"].values():
        click.echo(f"  {build}")
    for error in document["errors"].values():
        click.echo(f"  {words(error)}")


def _print_jobs(entries: list[Entry]) -> None:
    for entry in entries:
        why = f"  {entry.error[0]}: {entry.error[1]}" if entry.error else ""
        click.echo(f"{entry.job}  {entry.state}{why}")
    counts = {state: sum(entry.state == state for entry in entries) for state in get_args(State)}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    click.echo(f"{len(entries)} jobs" + (f": {told}" if told else ""))


def _document(entry: Entry) -> dict[str, Any]:
    times = {"opened": _time(entry.opened_s), "ended": _time(entry.ended_s)}
    error = {"code": entry.error[0], "message": entry.error[1]} if entry.error else None
    kept = ("job", "state", "name", "source", "recipes", "tags")
    return {key: getattr(entry, key) for key in kept} | times | {"error": error}


def _time(at_s: float | None) -> str | None:
    if at_s is None:
        return None
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")
