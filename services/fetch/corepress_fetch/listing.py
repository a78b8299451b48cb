"""Which files of a listing on a server are a source's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from corepress.domain.errors import UnsafePath

File = TypeVar("File")

_DEEPEST = 2  # a file in a folder, as those of a checkpoint on disk


def chosen(listed: Mapping[str, File], path: str) -> dict[str, File]:
    """The file at a path, under its own name, or the files in the folder there.

    Of a folder, what `corepress.runtime.files.source_files` takes of one on disk: the files in it
    and in its immediate subfolders, hidden ones left out.

    Args:
        listed: the files by their path on the server.
        path: of a file or folder; empty for all.

    Returns:
        the files by relative path, empty where there is none.

    Raises:
        UnsafePath: a path leads elsewhere once it is one on disk.
    """
    if path in listed:
        return {PurePosixPath(path).name: listed[path]}
    prefix = f"{path}/" if path else ""
    found = {}
    for name in sorted(listed):
        if not name.startswith(prefix):
            continue
        relative = name.removeprefix(prefix)
        parts = relative.split("/")
        _refuse_unsafe(relative, parts)
        if len(parts) <= _DEEPEST and not any(part.startswith(".") for part in parts):
            found[relative] = listed[name]
    return found


def _refuse_unsafe(path: str, parts: list[str]) -> None:
    if ".." in parts or "." in parts or "" in parts or "\\" in path or "\0" in path:
        raise UnsafePath(
            f"{path!r} is no path within a folder", hint="have it renamed on the server", path=path
        )
