"""Where a source is, and what tells whether it is still the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from corepress.domain.errors import InvalidRequest
from corepress.runtime.files import LocalFile, local_path, source_files, tokenizer_files
from corepress_fetch.http_file import HttpFile

Source = dict[str, LocalFile] | dict[str, HttpFile]
"""A source's files by relative path: all on disk, or one on a server."""


def open_source(uri: str) -> Source:
    """The files of a source: a path, a ``file://`` or an ``http(s)://`` address.

    Raises:
        InvalidRequest: of no such kind.
        SourceNotFound, SourceUnavailable, AccessDenied: the source is not there, or not for us.
        UnsafePath, CorruptCheckpoint: see `source_files` and `HttpFile`.
    """
    path = local_path(uri)
    if path is not None:
        return source_files(path)
    scheme = urlsplit(uri).scheme
    if scheme not in ("http", "https"):
        raise InvalidRequest(
            f"sources of kind {scheme}:// are not supported yet",
            hint="give a path, or a file:// or http(s):// address",
            path=uri,
        )
    file = HttpFile(uri)
    return {file.name: file}


def resolve(uri: str, tokenizer: str | None = None) -> dict[str, Any]:
    """A source at this moment, as the fetch stage takes it in its parameters, by role.

    Args:
        uri: of the source.
        tokenizer: a folder whose tokenizer replaces the source's own.

    Returns:
        ``uri``, made absolute, and ``fingerprint``, which changes with the content: sizes and
        modification times of files on disk (those in nanoseconds), what a server says of its file.

    Raises:
        PermanentError, TransientError: see `open_source`.
    """
    path = local_path(uri)
    resolved = {
        "uri": path.absolute().as_uri() if path else uri,
        "fingerprint": fingerprint(open_source(uri)),
    }
    if tokenizer is not None:
        resolved["tokenizer_fingerprint"] = fingerprint(tokenizer_files(Path(tokenizer)))
    return resolved


def fingerprint(source: Source) -> dict[str, Any]:
    """What changes with a source's content, without reading it; plain JSON."""
    return {path: file.fingerprint for path, file in source.items()}
