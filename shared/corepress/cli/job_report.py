"""What has become of a job of the fleet: as JSON, and as the end of a command."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from corepress.cli.output import print_json, words
from corepress.config import Settings
from corepress.domain.errors import from_document
from corepress.domain.publication import build_prefix, version_of
from corepress.ports.clock import SystemClock
from corepress.ports.store import Store
from corepress.runtime.actions import load_outputs
from corepress.runtime.oversight import status, waiting_stages
from corepress.runtime.presence import stages_with_workers


def job_document(settings: Settings, store: Store, job: str) -> dict[str, Any]:
    """What has become of a job, as JSON; bundles by where they are published.

    Raises:
        InvalidRequest: there is no such job.
    """
    now = status(store, job)
    waiting: set[str] = set()
    if now.state == "running":
        waiting = waiting_stages(store, job) - stages_with_workers(store, SystemClock())
    return {
        "job": job,
        "name": now.name,
        "source": now.source,
        "state": now.state,
        "steps": {"settled": now.settled, "known": now.nodes},
        "no_worker_for": sorted(waiting),
        "builds": {
            build: _published(settings, store, now.name, build, action)
            for build, action in now.builds.items()
        },
        "errors": {node: dict(error) for node, error in now.errors.items()},
    }


def lack_words(stage: str) -> str:
    """That a stage has no worker."""
    if stage == "compile":
        return "waiting for a Mac: no compile worker is connected"
    return f"waiting for a worker of {stage}: none is connected"


def conclude(finished: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Say what became of jobs, and end with the exit status of their first error."""
    errors = [error for job in finished for error in job["errors"].values()]
    if as_json:
        print_json({"jobs": list(finished)} | ({"error": errors[0]} if errors else {}))
    else:
        for job in finished:
            click.echo(f"{job['job']}  {job['state']}")
            for build in job["builds"].values():
                click.echo(f"  {build}")
    for error in errors:
        click.echo(words(error), err=True)
    if errors:
        sys.exit(from_document(errors[0]).exit_code)


def _published(settings: Settings, store: Store, name: str, build: str, action: str) -> str:
    outputs = load_outputs(store, action)
    version = version_of(outputs.artifacts["bundle"]) if outputs else ""
    address = str(settings.store).rstrip("/")
    return f"{address}/{build_prefix(name, build)}{version}"
