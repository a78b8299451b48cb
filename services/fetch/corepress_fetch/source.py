"""Where a source is, and what tells whether it is still the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from corepress.domain.errors import InvalidRequest
from corepress.domain.hub_address import HubAddress
from corepress.domain.job import JobRequest
from corepress.runtime.files import LocalFile, local_path, source_files, tokenizer_files
from corepress_fetch.civitai import open_version
from corepress_fetch.http_file import HttpFile
from corepress_fetch.remote_file import RemoteFile

Source = Mapping[str, LocalFile | RemoteFile]
"""A source's files by relative path: all on disk, or all on a server."""

_FORMS = "a path, file://, http(s)://, s3://bucket/key, hf://owner/name, civitai://VERSION"


def open_source(uri: str) -> Source:
    """The files of a source: a path, or an address of any kind that the README names.

    Raises:
        InvalidRequest: of no such kind.
        SourceNotFound, SourceUnavailable, AccessDenied: the source is not there, or not for us.
        UnsafePath, CorruptCheckpoint: see `source_files`, `chosen` and `HttpFile`.
    """
    return _opened(uri)[1]


def pinned(request: JobRequest) -> JobRequest:
    """A request whose sources are named as they are at this moment.

    A revision of a repository becomes the commit that it stands for, a model version the file that
    is taken of it; all other addresses stay.

    Raises:
        PermanentError, TransientError: see `open_source`.
    """
    options = request.options
    return replace(
        request,
        source=pin(request.source),
        options=replace(
            options,
            vae=None if options.vae is None else pin(options.vae),
            lora=tuple(replace(lora, source=pin(lora.source)) for lora in options.lora),
        ),
        controlnets=tuple(pin(uri) for uri in request.controlnets),
        refiner=None if request.refiner is None else pin(request.refiner),
    )


def pin(uri: str) -> str:
    """A source's address as `pinned` has it.

    Raises:
        PermanentError, TransientError: see `open_source`.
    """
    return _opened(uri)[0] if _scheme(uri) in ("hf", "civitai") else uri


def resolve(uri: str, tokenizer: str | None = None) -> dict[str, Any]:
    """A source at this moment, as the fetch stage takes it in its parameters, by role.

    Args:
        uri: of the source.
        tokenizer: a folder whose tokenizer replaces the source's own.

    Returns:
        ``uri``, absolute and pinned, and ``fingerprint``, which changes with the content: sizes and
        modification times of files on disk (those in nanoseconds), what a server says of its files.

    Raises:
        PermanentError, TransientError: see `open_source`.
    """
    address, source = _opened(uri)
    resolved = {"uri": address, "fingerprint": fingerprint(source)}
    if tokenizer is not None:
        resolved["tokenizer_fingerprint"] = fingerprint(tokenizer_files(Path(tokenizer)))
    return resolved


def fingerprint(source: Source) -> dict[str, Any]:
    """What changes with a source's content, without reading it; plain JSON."""
    return {path: file.fingerprint for path, file in source.items()}


def _opened(uri: str) -> tuple[str, Source]:
    """A source's address, absolute and pinned, and its files."""
    path = local_path(uri)
    if path is not None:
        return path.absolute().as_uri(), source_files(path)
    scheme = _scheme(uri)
    if scheme in ("http", "https"):
        file = HttpFile.at(uri)
        return uri, {file.name: file}
    # clients of which most jobs need none take their time to import
    if scheme == "s3":
        from corepress_fetch.s3_source import open_objects  # noqa: PLC0415

        return uri, open_objects(uri)
    if scheme == "hf":
        from corepress_fetch.hub import open_repository  # noqa: PLC0415

        address, files = open_repository(_hub_address(uri))
        return str(address), files
    if scheme == "civitai":
        return open_version(uri)
    raise InvalidRequest(
        f"there are no sources of the kind {scheme}://", hint=f"give {_FORMS}", path=uri
    )


def _scheme(uri: str) -> str:
    return uri.partition("://")[0].lower() if "://" in uri else ""


def _hub_address(uri: str) -> HubAddress:
    address = HubAddress.parse(uri)
    if address is None:
        raise InvalidRequest(
            f"{uri} names no repository", hint="hf://owner/name[@revision][/file]", path=uri
        )
    return address
