"""Values of options that stand in files, or need more than a type to be understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ByteSize, Field, TypeAdapter, ValidationError

from corepress.domain.errors import MissingConfig

_UNREADABLE = (
    *(OSError, ValueError, yaml.YAMLError, RecursionError),
    *(LookupError, AttributeError),  # PyYAML's, of values such as !!bool maybe
)
_SIZE: TypeAdapter[ByteSize] = TypeAdapter(Annotated[ByteSize, Field(gt=0)])


def shard_size(given: str | int | None) -> int | None:
    """What ``max-shard-size`` means, in bytes; None for ``none``, and where it is not given.

    Raises:
        ValueError: says what is allowed.
    """
    if given in (None, "none"):
        return None
    try:
        return int(_SIZE.validate_python(given))
    except ValidationError:
        raise ValueError(f"{given!r} is neither none nor a size such as 5GB") from None


def read_original_config(path: Path) -> dict[str, Any]:
    """An LDM or sgm yaml.

    Raises:
        MissingConfig: it cannot be read, or holds what JSON has not.
    """
    return _read(path, yaml.safe_load)


def read_component_config(path: Path) -> dict[str, Any]:
    """A component's ``config.json``.

    Raises:
        MissingConfig: it cannot be read.
    """
    return _read(path, json.loads)


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        document = parse(path.read_text())
    except _UNREADABLE as error:
        raise MissingConfig(f"cannot read {path}: {error}", path=str(path)) from error
    if not isinstance(document, dict):
        raise MissingConfig(f"{path} holds no mapping of keys to values", path=str(path))
    try:  # a job is JSON: dates, which YAML has, are text in it
        return dict(json.loads(json.dumps(document, default=str, allow_nan=False)))
    except ValueError as error:
        raise MissingConfig(f"{path} holds what JSON has not: {error}", path=str(path)) from error
