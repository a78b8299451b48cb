"""What is asked for on the command line, as job requests: for `run` and `submit`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import click

from corepress.cli.options import attachment_options, checkpoint_options, read_options
from corepress.domain.job import JobRequest, default_name, valid_name
from corepress.domain.recipe import Recipe
from corepress.recipes import load_recipe
from corepress.runtime.files import local_path

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--recipe",
        "recipe_names",
        multiple=True,
        required=True,
        metavar="NAME_OR_FILE",
        help="A built-in recipe or a recipe file; repeatable.",
    ),
    click.option("--name", help="Of the bundle; by default the source's. One source only."),
    click.option(
        "--compile",
        "compile_",
        type=click.Choice(["never", "required"]),
        help="Whether models are compiled, as only macOS can; by default required there.",
    ),
    checkpoint_options,
    attachment_options,
)


def request_options(function: F) -> F:
    """Add the options to a command; it gets them as one mapping for `read_requests`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def read_requests(sources: Sequence[str], values: dict[str, Any]) -> list[JobRequest]:
    """A request for each source.

    Args:
        sources: as given.
        values: of `request_options`.

    Raises:
        UnsupportedRecipe: a recipe cannot be read, or not be built.
        MissingConfig: a configuration file cannot be read.
    """
    name: str | None = values.pop("name")
    if name is not None and (len(sources) > 1 or valid_name(name) != name or not name):
        raise click.BadParameter(
            "needs a single source and a name of a-z, 0-9, dot, underscore and hyphen",
            param_hint="--name",
        )
    recipes = tuple(load_recipe(each) for each in values.pop("recipe_names"))
    for recipe in recipes:
        recipe.refuse_unbuildable()
    names = [name or _default_name(source) for source in sources]
    _refuse_equal_names("sources", names)
    _refuse_equal_names("builds", builds_of(recipes))
    wish: Literal["never", "required"] | None = values.pop("compile_")
    if wish is None:
        wish = "required" if sys.platform == "darwin" else "never"
    controlnets, refiner = values.pop("controlnets"), values.pop("refiner")
    checkpoint = read_options(values)
    return [
        JobRequest(source, recipes, its_name, checkpoint, wish, controlnets, refiner)
        for source, its_name in zip(sources, names, strict=True)
    ]


def builds_of(recipes: Sequence[Recipe]) -> list[str]:
    """The names of all builds."""
    return [build for recipe in recipes for build in recipe.build_names()]


def _refuse_equal_names(what: str, names: Sequence[str]) -> None:
    if twice := sorted({each for each in names if names.count(each) > 1}):
        raise click.UsageError(f"two {what} would share the name {', '.join(twice)}")


def _default_name(source: str) -> str:
    """As `default_name`, where ``.`` is called by its folder's name."""
    path = local_path(source)
    return default_name(source if path is None else str(path.absolute()))
