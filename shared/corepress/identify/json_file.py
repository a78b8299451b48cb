"""The small JSON files of a checkpoint: configurations, indices, schedulers."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from corepress.domain.checkpoint import Files
from corepress.domain.errors import CorruptCheckpoint

MOST_VALUES = 2_000_000
"""Far beyond any model's, and 150 MB at most once they are parsed."""
_LARGEST_BYTES = 64 * 2**20


def has_too_many_values(data: bytes) -> bool:
    """Whether JSON text might fill the memory when it is parsed, as ``[{},{},{}...`` would."""
    return sum(data.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES


def read_json_object(files: Files, path: str) -> dict[str, Any]:
    """A small JSON file whose top level is an object.

    Raises:
        CorruptCheckpoint: it isn't one.
    """
    source = files[path]
    if source.size_bytes > _LARGEST_BYTES:
        _refuse(path, f"{source.size_bytes} bytes are too many")
    data = source.read(0, source.size_bytes)
    if has_too_many_values(data):
        _refuse(path, f"more than {MOST_VALUES} values are too many")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        _refuse(path, str(error))
    if not isinstance(document, dict):
        _refuse(path, "not an object")
    return document


def _refuse(path: str, reason: str) -> NoReturn:
    raise CorruptCheckpoint(
        f"{path} is not a JSON object ({reason})", path=path, hint="Download the file again."
    )
