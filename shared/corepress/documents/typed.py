"""Documents in YAML that are held to a type, with errors that name file and line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from corepress.documents.loaded import Document, Location, NotYaml, load, one_spelling
from corepress.domain.errors import PermanentError

Fault = tuple[Location, str]
"""Where a document makes no sense, and why."""

T = TypeVar("T")

_UNKNOWN = ("unexpected_keyword_argument", "unexpected_property", "extra_forbidden")
_MISSING = ("missing", "missing_argument")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What a document is to be: a type, a noun for it (``a recipe``), and what its refusal is."""

    adapter: TypeAdapter[T]
    noun: str
    error: type[PermanentError]
    hint: str

    @cached_property
    def schema(self) -> Mapping[str, Any]:
        """The type's JSON schema."""
        return self.adapter.json_schema()


def parse(
    kind: Kind[T],
    text: str,
    where: str,
    impossible: Callable[[T], Iterable[Fault]] = lambda _: (),
) -> T:
    """A value of a type from a text.

    Args:
        kind: what the text is to be.
        text: YAML.
        where: the file's name for messages.
        impossible: what is wrong with a value although the types of all its parts are right.

    Raises:
        PermanentError: the kind's; names file, line and allowed values for every fault.
    """
    document = load_mapping(kind, text, where)
    faults: list[Fault] = []
    value = validated(kind, document.value, faults)
    if value is not None:
        faults = list(impossible(value))
    refuse(kind, document, faults, where)
    assert value is not None
    return value


def load_mapping(kind: Kind[Any], text: str, where: str) -> Document:
    """The text as YAML whose outermost value is a mapping.

    Raises:
        PermanentError: the kind's.
    """
    try:
        document = load(text)
    except NotYaml as error:
        line = f":{error.line}" if error.line else ""
        raise kind.error(
            f"{where}{line}: not YAML: {error.problem}", hint=kind.hint, path=where
        ) from error
    if not isinstance(document.value, dict):
        first = next(iter(kind.schema["properties"]))
        raise kind.error(
            f"{where}:1: {kind.noun} is a mapping of keys to values, such as `{first}:`",
            hint=kind.hint,
            path=where,
        )
    return document


def validated(kind: Kind[T], value: Any, faults: list[Fault]) -> T | None:
    """The value as the kind's type.

    Args:
        kind: what it is to be.
        value: of plain types.
        faults: takes what is wrong with it, all at once; then the answer is None.
    """
    try:
        as_json = json.dumps(value, default=str)
    except (TypeError, ValueError) as error:
        faults.append(((), f"what JSON has not: {error}"))
        return None
    try:
        return kind.adapter.validate_json(as_json, strict=True)
    except ValidationError as error:
        faults.extend(_worded(kind, error.errors()))
        return None


def salvaged(kind: Kind[T], value: Any, faults: list[Fault]) -> T | None:
    """As `validated`, but of a faulty mapping what is right, where that is enough for a value."""
    wrong: list[Fault] = []
    found = validated(kind, value, wrong)
    faults.extend(wrong)
    if found is None and isinstance(value, dict):
        keys = {one_spelling(location[0]) for location, _ in wrong if location}
        rest = {key: each for key, each in value.items() if one_spelling(key) not in keys}
        return validated(kind, rest, [])
    return found


def refuse(kind: Kind[Any], document: Document, faults: Iterable[Fault], where: str) -> None:
    """Refuse a document that has faults, its own or these.

    Raises:
        PermanentError: the kind's; a line of the message for every fault, in order.
    """
    lines = {(document.line(location), words) for location, words in faults}
    lines.update(document.faults)
    if lines:
        raise kind.error(
            "\n".join(f"{where}:{line}: {words}" for line, words in sorted(lines)),
            hint=kind.hint,
            path=where,
        )


def _worded(kind: Kind[Any], problems: Sequence[ErrorDetails]) -> Iterator[Fault]:
    """Where values have a wrong type, and what is allowed.

    Left out is that a list is not the word allowed in its place, where the list has a fault.
    """
    for problem in problems:
        if (
            problem["type"] != "literal_error"
            or not isinstance(problem["input"], list)
            or [other["loc"][:1] for other in problems].count(problem["loc"][:1]) == 1
        ):
            yield problem["loc"], _words(kind, problem)


def _words(kind: Kind[Any], problem: ErrorDetails) -> str:
    key = ".".join(str(part) for part in problem["loc"] if _is_key(part))
    value = problem["input"]
    shown = "" if isinstance(value, dict | list) else f" (found {value!r})"
    if problem["type"] in _UNKNOWN:
        message = f"no such key in {kind.noun}{_nearest(kind, problem['loc'])}"
    elif problem["type"] in _MISSING:
        message = "missing"
    else:
        message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message}{shown}" if key else message


def _nearest(kind: Kind[Any], location: Location) -> str:
    """Which of the keys that are allowed in a key's place come nearest to it."""
    allowed = _keys_at(kind.schema, location[:-1])
    near = near_names(str(location[-1]), allowed)
    return f"; {near}" if near else f"; allowed are {', '.join(allowed)}"


def near_names(name: str, known: Iterable[str]) -> str:
    """Words for the nearest of the names that would have been right; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else ""


def _keys_at(schema: Mapping[str, Any], location: Location) -> list[str]:
    """The keys that a JSON schema allows in the object at a location."""
    places = [schema]
    for part in location:
        if _is_key(part):
            places = [
                inner
                for place in _alternatives(schema, places)
                for inner in (
                    place.get("properties", {}).get(part),
                    place.get("additionalProperties"),
                    place.get("items"),
                )
                if isinstance(inner, dict)
            ]
    return [key for place in _alternatives(schema, places) for key in place.get("properties", {})]


def _alternatives(
    schema: Mapping[str, Any], places: Iterable[Mapping[str, Any]]
) -> Iterator[Mapping[str, Any]]:
    """What schemas allow, references and unions resolved."""
    for place in places:
        if "$ref" in place:
            yield from _alternatives(schema, [schema["$defs"][place["$ref"].rpartition("/")[2]]])
        yield from _alternatives(schema, place.get("anyOf", ()))
        yield place


def _is_key(part: object) -> bool:
    # pydantic names the member of a union it tried between the keys: not a key of the file
    return isinstance(part, int) or (
        isinstance(part, str) and not part.startswith(("literal[", "list[", "tuple[", "[key]"))
    )
