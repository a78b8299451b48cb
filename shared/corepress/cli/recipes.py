"""``corepress recipes``."""

from __future__ import annotations

from dataclasses import asdict

import click

from corepress.cli.output import command, print_json
from corepress.recipes import built_in_names, built_in_text, load_recipe, purpose


@click.command()
@click.argument("name", required=False)
@command
def recipes(name: str | None, as_json: bool) -> None:
    """List the built-in recipes, or show one.

    \b
    Examples:
      corepress recipes
      corepress recipes original > mine.yaml
    """
    if as_json:
        names = [name] if name else built_in_names()
        print_json(
            {"recipes": [asdict(load_recipe(each)) | {"purpose": purpose(each)} for each in names]}
        )
    elif name:
        click.echo(built_in_text(name), nl=False)
    else:
        for each in built_in_names():
            click.echo(f"{each:<16} {purpose(each)}")
