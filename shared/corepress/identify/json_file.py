"""The small JSON files of a checkpoint: configurations, indices, schedulers."""

from __future__ import annotations

import json
from typing import Any

from corepress.domain.checkpoint import Files
from corepress.domain.errors import CorruptCheckpoint

_LARGEST_BYTES = 64 * 2**20


def read_json_object(files: Files, path: str) -> dict[str, Any]:
    """A small JSON file whose top level is an object.

    Raises:
        CorruptCheckpoint: it isn't one.
    """
    source = files[path]
    reason = "not an object"
    try:
        if source.size_bytes <= _LARGEST_BYTES:
            document = json.loads(source.read(0, source.size_bytes).decode("utf-8"))
            if isinstance(document, dict):
                return document
        else:
            reason = f"{source.size_bytes} bytes are too many"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise CorruptCheckpoint(
        f"{path} is not a JSON object ({reason})", path=path, hint="Download the file again."
    )
