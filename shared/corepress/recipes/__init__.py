"""The built-in recipes, and reading recipe files with errors that name the line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from corepress.documents.typed import Fault, Kind, parse, validated
from corepress.domain.errors import UnsupportedRecipe
from corepress.domain.job import valid_name
from corepress.domain.recipe import MODERN_TARGETS, Recipe
from corepress.recipes.layer_bits import parse_layer_bits
from corepress.recipes.recipe_file import HINT, read_text

_RECIPE = Kind(TypeAdapter(Recipe), "a recipe", UnsupportedRecipe, HINT)


def built_in_names() -> list[str]:
    """The names of the recipes that come with Corepress."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files(__package__).iterdir()
        if entry.name.endswith(".yaml")
    )


def built_in_text(name: str) -> str:
    """The file of a built-in recipe.

    Raises:
        UnsupportedRecipe: there is none of this name.
    """
    if name not in built_in_names():
        raise UnsupportedRecipe(
            f"no built-in recipe is called {name!r}",
            hint=f"there are: {', '.join(built_in_names())}; or give the path of a recipe file",
        )
    return files(__package__).joinpath(f"{name}.yaml").read_text()


def purpose(name: str) -> str:
    """What a built-in recipe is for: the first line of its file, a comment.

    Raises:
        UnsupportedRecipe: there is none of this name.
    """
    return built_in_text(name).splitlines()[0].removeprefix("# ")


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by its built-in name, or from a file.

    Raises:
        UnsupportedRecipe: unknown, unreadable or malformed; names file, line and allowed values.
    """
    path = Path(name_or_path)
    if name_or_path.endswith((".yaml", ".yml")) or len(path.parts) > 1:
        recipe = parse_recipe(read_text(path, name_or_path), name_or_path)
        return _with_mixed_files_read(recipe, path.parent)
    return load_built_in(name_or_path)


def load_built_in(name: str) -> Recipe:
    """A recipe that comes with Corepress.

    Raises:
        UnsupportedRecipe: there is none of this name.
    """
    return parse_recipe(built_in_text(name), f"{name}.yaml")


def parse_recipe(text: str, where: str) -> Recipe:
    """A recipe from the text of its file; files that it names are not read.

    Args:
        text: YAML.
        where: the file's name for messages.

    Raises:
        UnsupportedRecipe: names file, line and allowed values.
    """
    return parse(_RECIPE, text, where, _impossible)


def recipe_of(value: Mapping[str, Any], folder: Path, faults: list[Fault]) -> Recipe | None:
    """A recipe that stands in another document.

    Args:
        value: its keys and values.
        folder: where the files are that it names.
        faults: takes what is wrong with it; then the answer is None.

    Raises:
        UnsupportedRecipe: such a file is unreadable or malformed.
    """
    wrong: list[Fault] = []
    recipe = validated(_RECIPE, value, wrong)
    if recipe is not None:
        wrong += _impossible(recipe)
    faults += wrong
    return None if recipe is None or wrong else _with_mixed_files_read(recipe, folder)


def _with_mixed_files_read(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with what the files that it names say, so that it stands for itself."""
    compression = dict(recipe.compression)
    for component, stated in recipe.compression.items():
        if stated.mixed is not None:
            path = folder / stated.mixed
            layers = parse_layer_bits(
                read_text(path, str(path)), str(path), recipe.deployment_target
            )
            compression[component] = replace(stated, mixed=None, layers=layers)
    return replace(recipe, compression=compression)


def _impossible(recipe: Recipe) -> Iterator[Fault]:
    """Where a recipe of the right types makes no sense, and why."""
    if not recipe.name or valid_name(recipe.name) != recipe.name:
        yield (
            ("name",),
            f"name: {recipe.name!r} cannot name a folder; use a-z, 0-9, dot, underscore and hyphen",
        )
    if not recipe.sizes:
        yield ("sizes",), "sizes: give at least one [width, height], or native"
    if not recipe.components:
        yield ("components",), "components: give at least one, or default"
    for index, size in enumerate(recipe.sizes if recipe.sizes != "native" else ()):
        if min(size) <= 0:
            yield ("sizes", index), f"sizes.{index}: give positive numbers of pixels"
        if size in recipe.sizes[:index]:
            yield ("sizes", index), f"sizes.{index}: the same size stands there twice"
    if recipe.deployment_target in MODERN_TARGETS:
        return
    for component, compression in recipe.compression.items():
        if compression.modern:
            yield (
                ("compression", component, compression.modern),
                f"compression.{component}.{compression.modern}: 3-bit palettes, 4-bit integers and "
                f"groups need a deployment target of iOS18, macOS15 or newer",
            )
