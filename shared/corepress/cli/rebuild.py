"""``corepress rebuild``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click

from corepress.cli.output import command, print_json, words
from corepress.config import read_settings
from corepress.domain.bundle import component_of
from corepress.domain.errors import from_document
from corepress.domain.publication import Publication
from corepress.domain.recipe import COMPONENTS
from corepress.runtime.condition import parse_condition
from corepress.runtime.rebuild import Rebuild, known_facts, rebuild_selected, selected


@click.command()
@click.option(
    "--component",
    "component_name",
    required=True,
    type=click.Choice(COMPONENTS),
    help="Which kind of model to convert again.",
)
@click.option(
    "--where",
    required=True,
    metavar="CONDITION",
    help="Which published builds: compares versions of what converted the model (coremltools, "
    "torch, ...), family, name, build, recipe, version, source, precision, prediction_type, bytes "
    "and conversion_db with < <= > >= == != ~= in; and, or, not, parentheses.",
)
@click.option(
    "--force", is_flag=True, help="Convert also where the same tools have done so before."
)
@click.option("--dry-run", is_flag=True, help="Only say what is selected.")
@command
def rebuild(component_name: str, where: str, force: bool, dry_run: bool, as_json: bool) -> None:
    """Convert one component again, across all that is published, and publish new versions.

    Looks at the latest version of each build. Everything but the component is taken as it is.
    Where workers have the tools that made it, nothing new comes of it.

    \b
    Examples:
      corepress rebuild --component text_encoder --where "coremltools < 9" --dry-run
      corepress rebuild --component unet --where "family == sdxl and name != 'my-*'"
    """
    from corepress.connections import open_bus, open_store  # noqa: PLC0415  (see cli/submit.py)
    from corepress.runtime.catalogue import latest  # noqa: PLC0415
    from corepress.runtime.catalogue_page import publications  # noqa: PLC0415

    settings = read_settings()
    store, component = open_store(settings), component_of(component_name)
    entries = latest(publications(store))
    chosen = selected(entries, component, parse_condition(where, known_facts(entries)))
    if dry_run or not chosen:
        done = [Rebuild(chosen)] if chosen else []
    else:
        bus = open_bus(settings)
        try:
            done = rebuild_selected(store, bus, component, chosen, force)
        finally:
            bus.close()
    errors = [dict(each.error) for each in done if each.error]
    if as_json:
        document: dict[str, Any] = {"dry_run": dry_run, "rebuilds": [asdict(each) for each in done]}
        print_json(document | ({"error": errors[0]} if errors else {}))
    else:
        _print_words(done, component, len(entries))
    for error in errors:
        click.echo(words(error), err=True)
    if errors:
        sys.exit(from_document(errors[0]).exit_code)


def _print_words(done: list[Rebuild], component: str, of: int) -> None:
    for each in done:
        for entry in each.entries:
            click.echo(f"{entry.name}/{entry.build}  {_made_with(entry, component)}")
        if each.job is not None:
            click.echo(f"  job {each.job}")
    click.echo(f"{sum(len(each.entries) for each in done)} of {of} published builds are selected")


def _made_with(entry: Publication, component: str) -> str:
    tools = {
        f"{tool} {version}"
        for name, facts in entry.components.items()
        if component_of(name) == component
        for tool, version in facts["toolchain"].items()
    }
    return ", ".join(sorted(tools))
