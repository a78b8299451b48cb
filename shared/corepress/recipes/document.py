"""Documents in YAML that are held to a type, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from corepress.domain.errors import UnsupportedRecipe

Location = Sequence[int | str]
"""The keys and indices that lead to a value."""

Fault = tuple[Location, str]
"""Where a document makes no sense, and why."""

T = TypeVar("T")


def read_text(path: Path, where: str) -> str:
    """The text of a file.

    Args:
        path: the file.
        where: its name for messages.

    Raises:
        UnsupportedRecipe: it cannot be read.
    """
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnsupportedRecipe(
            f"cannot read the recipe file {where}: {error}", path=where
        ) from error


def parse(
    kind: TypeAdapter[T], text: str, where: str, impossible: Callable[[T], Iterable[Fault]]
) -> T:
    """A value of a type from the text of a file.

    Args:
        kind: of the type.
        text: YAML.
        where: the file's name for messages.
        impossible: what is wrong with a value although the types of all its parts are right.

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
        value = kind.validate_json(as_json, strict=True)
    except ValidationError as error:
        faults = _worded(error.errors())
    else:
        faults = list(impossible(value))
        if not faults:
            return value
    lines = sorted((_line(root, location), words) for location, words in faults)
    raise UnsupportedRecipe(
        "\n".join(f"{where}:{line}: {words}" for line, words in lines),
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


def _worded(problems: Sequence[ErrorDetails]) -> list[Fault]:
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
