"""Matrices: options that are varied, in every combination."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from pydantic import TypeAdapter

from corepress.documents.loaded import Location, one_spelling
from corepress.documents.typed import Fault, Kind, near_names, validated
from corepress.domain.errors import InvalidFleetFile
from corepress.domain.job import default_name, valid_name
from corepress.submission.options import Options

HINT = "docs/fleet-file.md describes every key of a fleet file"
_POINT = Kind(TypeAdapter(Options), "a matrix", InvalidFleetFile, HINT)
_UNNAMED = {"recipes", "compile", "priority", "tags"}
"""Options that need not be told apart by a bundle's name."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination: what it says of a job, and what that adds to the job's name."""

    stated: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""


Axis = list[tuple[Location, Point]]
"""What an axis offers, each with its place in the matrix."""


def axes_of(matrix: Mapping[str, Any]) -> tuple[list[Axis], list[Fault]]:
    """The axes of a matrix, and what is wrong with it.

    Args:
        matrix: by axis either an option's values, or groups of options by a name.
    """
    faults: list[Fault] = []
    return [list(_axis(name, given, faults)) for name, given in matrix.items()], faults


def combinations(axes: Iterable[Axis]) -> list[Point]:
    """What axes offer together, in the order in which they are written."""
    return [
        Point(
            {name: value for _, point in combination for name, value in point.stated.items()},
            "".join(point.suffix for _, point in combination),
        )
        for combination in product(*filter(None, axes))
    ]


def _axis(name: str, given: Any, faults: list[Fault]) -> Iterator[tuple[Location, Point]]:
    if isinstance(given, dict) and given:
        for label, options in given.items():
            yield from _point((name, label), options or {}, f"-{valid_name(label)}", faults)
            if not valid_name(label):
                faults.append(((name, label), f"{label!r} cannot be part of a name"))
    elif not isinstance(given, list) or not given:
        words = "give a list of an option's values, or groups of options by a name"
        faults.append(((name,), f"{name}: {words}"))
    elif one_spelling(name) not in Options.model_fields:
        near = near_names(name, (each.replace("_", "-") for each in Options.model_fields))
        words = near or "give groups of options by a name"
        faults.append(((name,), f"{name}: no such option; {words}"))
    else:
        for index, value in enumerate(given):
            label = "" if one_spelling(name) in _UNNAMED else f"-{valid_name(name)}-{_label(value)}"
            yield from _point((name, index), {name: value}, label, faults)


def _point(
    place: Location, options: Any, suffix: str, faults: list[Fault]
) -> Iterator[tuple[Location, Point]]:
    wrong: list[Fault] = []
    found = validated(_POINT, options, wrong)
    faults.extend(((*place, *location), words) for location, words in wrong)
    if found is not None:
        yield place, Point(found.stated, suffix)


def _label(value: Any) -> str:
    """A value as a part of a name."""
    if isinstance(value, list):
        return "-".join(map(_label, value)) or "none"
    if isinstance(value, str):
        return default_name(value)
    if value is None:
        return "none"
    return valid_name(str(value))
