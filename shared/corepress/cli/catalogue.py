"""``corepress catalogue``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import click

from corepress.cli.output import command, print_json, size_text
from corepress.config import read_settings
from corepress.domain.publication import Publication


@click.command()
@click.argument("name", required=False)
@command
def catalogue(name: str | None, as_json: bool) -> None:
    """List what is published: the latest version of each build, or all versions under a name.

    \b
    Examples:
      corepress catalogue
      corepress catalogue my-model --json
    """
    from corepress.connections import open_store  # noqa: PLC0415  (not every command needs boto3)
    from corepress.runtime.catalogue import latest  # noqa: PLC0415
    from corepress.runtime.catalogue_page import publications  # noqa: PLC0415

    found = publications(open_store(read_settings()))
    last = latest(found)
    newest = {_key(entry) for entry in last}
    shown = [entry for entry in found if entry.name == name] if name else last
    if as_json:
        print_json({"publications": [_document(entry, newest) for entry in shown]})
        return
    for entry in shown:
        mark = "  latest" if name and _key(entry) in newest else ""
        click.echo(
            f"{entry.name:<32} {entry.build:<24} {entry.version}  {entry.family:<16} "
            f"{size_text(entry.bytes):>9}  {entry.published[:10]}{mark}"
        )


def _key(entry: Publication) -> tuple[str, str, int]:
    return entry.name, entry.build, entry.number


def _document(entry: Publication, newest: Collection[tuple[str, str, int]]) -> dict[str, Any]:
    return asdict(entry) | {"path": entry.path, "latest": _key(entry) in newest}
