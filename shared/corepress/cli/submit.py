"""``corepress submit``: jobs for the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any

import click

from corepress.cli.job_report import conclude
from corepress.cli.output import command, print_json
from corepress.cli.requests import read_requests, request_options
from corepress.cli.watching import watch_jobs
from corepress.config import Settings, read_settings
from corepress.domain.composition import Lora
from corepress.domain.job import HIGHEST_PRIORITY, JobRequest
from corepress.ports.bus import INTAKE
from corepress.runtime.files import local_path
from corepress_intake.opening import refuse_hidden_sources
from corepress_intake.request import Submission


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@request_options
@click.option(
    "--priority",
    type=click.IntRange(0, HIGHEST_PRIORITY),
    default=0,
    help="0 to 9; RabbitMQ 4 prefers what has 5 and more.",
)
@click.option("--tag", "tags", multiple=True, help="To tell jobs by; repeatable.")
@click.option(
    "--id",
    "message_id",
    help="What is submitted twice under one id is one job; by default all are jobs of their own.",
)
@click.option("--watch", is_flag=True, help="Show what becomes of the jobs until they end.")
@command
def submit(
    sources: tuple[str, ...],
    priority: int,
    tags: tuple[str, ...],
    message_id: str | None,
    watch: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Have the fleet convert checkpoints.

    Local files are refused but in $COREPRESS_LOCAL_SOURCES, a folder that all hosts share.

    \b
    Examples:
      corepress submit hf://owner/repo --recipe original
      corepress submit s3://models/a.safetensors s3://models/b.safetensors --recipe mac-ane --watch
    """
    settings = read_settings()
    requests = [
        replace(_absolute(request), priority=priority, tags=tags)
        for request in read_requests(sources, options)
    ]
    submissions = [
        Submission.of(request, message_id if message_id is not None else token_hex(8))
        for request in requests
    ]
    send(settings, submissions)
    names = [submission.job for submission in submissions]
    if watch:
        conclude(watch_jobs(settings, names), as_json)
        return
    if as_json:
        told = [
            {"job": each.job, "name": each.request.name, "source": each.request.source}
            for each in submissions
        ]
        print_json({"jobs": told})
    else:
        for name in names:
            click.echo(name)


def send(settings: Settings, submissions: Sequence[Submission]) -> None:
    """Send job requests to the fleet.

    Raises:
        InvalidRequest: a source cannot be read by the fleet, or no bus is named.
        BusUnavailable, AccessDenied: the bus does not take them.
    """
    # whoever runs on one machine needs neither pika nor boto3
    from corepress.connections import open_bus  # noqa: PLC0415

    for each in submissions:
        refuse_hidden_sources(each.request, settings.local_sources)
    bus = open_bus(settings)
    try:
        for each in submissions:
            bus.publish(INTAKE, each.encode(), each.request.priority)
    finally:
        bus.close()


def _absolute(request: JobRequest) -> JobRequest:
    """The request with paths that mean the same on every host."""
    options = request.options
    return replace(
        request,
        source=_address(request.source),
        controlnets=tuple(map(_address, request.controlnets)),
        refiner=request.refiner and _address(request.refiner),
        options=replace(
            options,
            tokenizer=options.tokenizer and _address(options.tokenizer),
            vae=options.vae and _address(options.vae),
            lora=tuple(Lora(_address(lora.source), lora.scale) for lora in options.lora),
        ),
    )


def _address(uri: str) -> str:
    path = local_path(uri)
    return uri if path is None else str(path.absolute())
