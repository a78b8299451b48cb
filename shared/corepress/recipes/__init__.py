"""The built-in recipes, and reading recipe files with errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from corepress.domain.errors import UnsupportedRecipe
from corepress.domain.job import valid_name
from corepress.domain.recipe import Recipe

Location = Sequence[int | str]
"""The keys and indices that lead to a value."""

_RECIPE = TypeAdapter(Recipe)


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


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by its built-in name, or from a file.

    Raises:
        UnsupportedRecipe: unknown, unreadable or malformed; names file, line and allowed values.
    """
    path = Path(name_or_path)
    if name_or_path.endswith((".yaml", ".yml")) or len(path.parts) > 1:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UnsupportedRecipe(
                f"cannot read the recipe file {name_or_path}: {error}", path=name_or_path
            ) from error
        return parse_recipe(text, name_or_path)
    return parse_recipe(built_in_text(name_or_path), f"{name_or_path}.yaml")


def parse_recipe(text: str, where: str) -> Recipe:
    """A recipe from the text of its file.

    Args:
        text: YAML.
        where: the file's name for messages.

    Raises:
        UnsupportedRecipe: names file, line and allowed values.
    """
    try:
        document = yaml.load(text, _Loader)
        root = yaml.compose(text, _Loader)
        as_json = json.dumps(document, default=str)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UnsupportedRecipe(f"{where}{line}: not YAML: {problem}", path=where) from error
    if not isinstance(document, dict):
        raise UnsupportedRecipe(
            f"{where}:1: a recipe is a mapping of keys to values, beginning with `name:`",
            path=where,
        )
    try:
        recipe = _RECIPE.validate_json(as_json, strict=True)
    except ValidationError as error:
        problems = _worded(error.errors())
    else:
        problems = list(_impossible(recipe))
        if not problems:
            return recipe
    faults = sorted((_line(root, location), words) for location, words in problems)
    raise UnsupportedRecipe(
        "\n".join(f"{where}:{line}: {words}" for line, words in faults),
        hint="the README describes every key of a recipe file",
        path=where,
    )


class _Loader(yaml.SafeLoader):
    """YAML in which no mapping has a key twice, and what is wrong has a line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # of values such as !!bool maybe
            problem = f"{node.value!r} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                problem = f"the key {key.value!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _impossible(recipe: Recipe) -> Iterator[tuple[Location, str]]:
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


def _worded(problems: Sequence[ErrorDetails]) -> list[tuple[Location, str]]:
    """Where values have a wrong type, and what is allowed.

    Left out is that a list is not the word allowed in its place, where the list has a fault.
    """
    return [
        (problem["loc"], _words(problem))
        for problem in problems
        if problem["type"] != "literal_error"
        or not isinstance(problem["input"], list)
        or [other["loc"][:1] for other in problems].count(problem["loc"][:1]) == 1
    ]


def _words(problem: ErrorDetails) -> str:
    key = ".".join(str(part) for part in problem["loc"] if _is_key(part))
    value = problem["input"]
    shown = "" if isinstance(value, dict | list) else f" (found {value!r})"
    message = {
        "unexpected_keyword_argument": "no such key in a recipe",
        "unexpected_property": "no such key in a recipe",
        "missing": "missing",
        "missing_argument": "missing",
    }.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return f"{key}: {message}{shown}" if key else message


def _is_key(part: object) -> bool:
    # pydantic names the member of a union it tried between the keys: not a key of the file
    return isinstance(part, int) or (
        isinstance(part, str) and not part.startswith(("literal[", "list[", "tuple[", "[key]"))
    )


def _line(node: yaml.Node | None, location: Location) -> int:
    """The line, from 1, of the deepest node on the way to a key."""
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    line, node = key.start_mark.line + 1, value
                    break
        elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
    return line
