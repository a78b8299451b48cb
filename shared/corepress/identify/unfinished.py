"""Traces that downloads leave while they are not finished."""

from __future__ import annotations

from collections.abc import Iterable

from corepress.domain.checkpoint import Files
from corepress.domain.errors import IncompleteCheckpoint
from corepress.identify.quoting import quote

_CONTROL_FILE = ".aria2"
_ENDINGS = (_CONTROL_FILE, ".crdownload", ".download", ".incomplete", ".part", ".partial", ".tmp")


def unfinished_downloads(files: Files, folder: str) -> list[str]:
    """The files in a component's folder (``""`` or ending in ``/``) that are but partly there."""
    return sorted(path for path in files if path.startswith(folder) and path.endswith(_ENDINGS))


def refuse_unfinished(files: Files, paths: Iterable[str]) -> None:
    """Refuse files of full size that are still being filled: aria2 notes that beside them.

    Raises:
        IncompleteCheckpoint: one of them is.
    """
    for path in paths:
        if path + _CONTROL_FILE in files:
            raise IncompleteCheckpoint(
                f"the download of {quote(path)} did not finish: there is {path}{_CONTROL_FILE}",
                path=path,
                hint="Let aria2 finish it.",
            )
