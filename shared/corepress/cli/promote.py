"""``corepress promote``."""

from __future__ import annotations

from dataclasses import asdict

import click

from corepress.cli.output import command, print_json
from corepress.config import read_settings


@click.command()
@click.argument("name")
@click.argument("build")
@click.argument("version")
@command
def promote(name: str, build: str, version: str, as_json: bool) -> None:
    """Make a published version the latest of its build again.

    NAME, BUILD and VERSION are as `corepress catalogue NAME` shows them; the beginning of a version
    is enough. Nothing is copied or removed, and nothing is changed on a hub.

    \b
    Example:
      corepress promote my-model original 0a1b2c3d4e5f6071
    """
    from corepress.connections import open_store  # noqa: PLC0415  (not every command needs boto3)
    from corepress.ports.clock import SystemClock  # noqa: PLC0415
    from corepress.runtime import catalogue, catalogue_page  # noqa: PLC0415

    store, clock = open_store(read_settings()), SystemClock()
    entry = catalogue.promote(store, clock, name, build, version)
    catalogue_page.refresh(store, clock)
    if as_json:
        print_json(asdict(entry) | {"path": entry.path, "latest": True})
    else:
        click.echo(f"{entry.name}/{entry.build} is now version {entry.version}")
