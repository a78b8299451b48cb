"""``corepress gc``."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from pathlib import Path

import click

from corepress.bootstrap import locked_store
from corepress.cli.output import command, print_json, size_text
from corepress.cli.progress import ProgressDisplay
from corepress.config import read_settings
from corepress.ports.inventory import Inventory
from corepress.ports.store import Store
from corepress.runtime.collection import Swept, sweep
from corepress.runtime.retention import Forgotten, forget

_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _duration_s(_: click.Context, __: click.Parameter, given: str | None) -> float | None:
    if given is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", given.strip())
    if found is None:
        raise click.BadParameter(f"{given!r} is not a time such as 24h, 90m or 7d")
    return float(found[1]) * _UNITS_S[found[2]]


@click.command()
@click.option(
    "--grace",
    "grace_s",
    default="24h",
    show_default=True,
    callback=_duration_s,
    metavar="TIME",
    help="How long something must not have been used: longer than your longest job takes. 0 only "
    "where nothing else is at work.",
)
@click.option(
    "--jobs-older-than",
    "jobs_s",
    callback=_duration_s,
    metavar="TIME",
    help="Also forget jobs that ended so long ago, but for those that published what the catalogue "
    "names. By default all are kept.",
)
@click.option(
    "--drops-older-than",
    "drops_s",
    callback=_duration_s,
    metavar="TIME",
    help="Also remove from the drop folder's accepted/ and rejected/ what was rejected, or whose "
    "jobs ended, so long ago. By default all is kept.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Clear up this state folder; by default $COREPRESS_STORE, else $COREPRESS_STATE.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@command
def gc(
    grace_s: float,
    jobs_s: float | None,
    drops_s: float | None,
    state: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove what nobody needs from the store, while the fleet goes on.

    What is published, what published versions were made of, and what unfinished jobs have made
    stays. Of the rest goes what was not used within the grace period: files, finished steps,
    old leases, and uploads that were never finished.

    Jobs, and what was dropped for them, are kept unless a time is given. A job that has not ended
    is never forgotten, nor what such a job needs.

    \b
    Examples:
      corepress gc --dry-run
      corepress gc --grace 48h
      corepress gc --jobs-older-than 90d --drops-older-than 30d
      corepress gc --state my-state --grace 7d
    """
    settings = read_settings()
    for given_s, option in ((jobs_s, "--jobs-older-than"), (drops_s, "--drops-older-than")):
        if given_s is not None and given_s < grace_s:
            raise click.BadParameter("it must not be shorter than --grace", param_hint=option)
    ages_s = (grace_s, jobs_s, drops_s)
    if state is not None and not state.exists():
        raise click.BadParameter(f"{state} does not exist", param_hint="--state")
    if state is not None or settings.store is None:
        with locked_store(state or settings.state) as (folder, inventory):
            forgotten, swept = _clear(folder, inventory, *ages_s, dry_run)
    else:
        from corepress.adapters.s3.inventory import S3Inventory  # noqa: PLC0415  (boto3)
        from corepress.connections import open_store  # noqa: PLC0415

        store = open_store(settings)
        forgotten, swept = _clear(store, S3Inventory(store.location), *ages_s, dry_run)
    if as_json:
        print_json({"dry_run": dry_run, **asdict(swept), **asdict(forgotten)})
    else:
        _print_words(swept, forgotten, dry_run)


def _clear(
    store: Store,
    inventory: Inventory,
    grace_s: float,
    jobs_s: float | None,
    drops_s: float | None,
    dry_run: bool,
) -> tuple[Forgotten, Swept]:
    now_s = inventory.now_s()

    def before_s(age_s: float | None) -> float | None:
        return None if age_s is None else now_s - age_s

    with ProgressDisplay() as display:

        def progress(what: str, done: int, total: int) -> None:
            display.activity(what, done, total, "part")

        forgotten = forget(store, inventory, before_s(jobs_s), before_s(drops_s), progress, dry_run)
        swept = sweep(store, inventory, now_s, grace_s, time.sleep, progress, dry_run)
    return forgotten, swept


def _print_words(swept: Swept, forgotten: Forgotten, dry_run: bool) -> None:
    verb = "would remove" if dry_run else "removed"
    click.echo(f"{verb} {swept.blobs} files, {size_text(swept.blob_bytes)}")
    click.echo(f"{verb} {swept.actions} finished steps, {swept.leases} old leases")
    click.echo(f"{verb} {swept.left_over} left-over uploads and notes")
    if forgotten.jobs or forgotten.drops:
        click.echo(
            f"{verb} {forgotten.jobs} ended jobs, {forgotten.drops} drops, "
            f"{size_text(forgotten.drop_bytes)}"
        )
    kept = "would keep" if dry_run else "kept"
    click.echo(f"{kept} {swept.kept_blobs} files, {size_text(swept.kept_bytes)}")
