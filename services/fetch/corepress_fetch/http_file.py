"""A file on a web server: read by ranges, or downloaded over as many connections as it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import httpx

from corepress.domain.errors import (
    AccessDenied,
    CorruptCheckpoint,
    InvalidRequest,
    SourceUnavailable,
)
from corepress_fetch.http_retry import refuse_status, retrying, translated

_TIMEOUT = httpx.Timeout(30, connect=10)
_PIECE_BYTES = 4 << 20
_SHA256_FRAGMENT = re.compile(r"sha256=([0-9a-f]{64})")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")
_FILE_NAME = re.compile(r"filename=\"?([^\";]+)\"?")


class HttpAccess:
    """How the files of one source are asked for: over shared connections, with what they need.

    Tokens among the headers stay with the server: where that sends on to another one, as to its
    storage, they are left out.

    Args:
        headers: of every request.
        denied_hint: what to do where access is refused; with it, a web page in place of a file
            counts as a refusal, too.
    """

    def __init__(self, headers: Mapping[str, str] | None = None, denied_hint: str = "") -> None:
        self.denied_hint = denied_hint
        # Compressed answers could not be resumed by ranges of the file.
        self.client = httpx.Client(
            timeout=_TIMEOUT,
            follow_redirects=True,
            headers={**(headers or {}), "Accept-Encoding": "identity"},
        )


@dataclass(frozen=True, slots=True)
class Stated:
    """What is known of a file without asking for it; an address that never changes its content."""

    name: str
    size_bytes: int
    fingerprint: dict[str, Any]


class HttpFile:
    """A `corepress_fetch.remote_file.RemoteFile` on a web server.

    Args:
        address: its address.
        sha256: the hexadecimal digest that it must have, where that is known beforehand.
        access: how to ask for it.
        stated: what is known of it; where nothing is, the server is asked at once.

    Raises:
        InvalidRequest: no valid address, or the server does not tell the size.
        SourceNotFound, AccessDenied, SourceUnavailable: as the server answers.
        CorruptCheckpoint: the server answers with a web page, or the file is empty.
    """

    stored = None

    def __init__(
        self,
        address: str,
        sha256: str | None = None,
        access: HttpAccess | None = None,
        stated: Stated | None = None,
    ) -> None:
        self.address = address
        self.sha256 = sha256
        self._access = access or HttpAccess()
        self._version: dict[str, Any] | None = None
        self.name = _file_name(self.address, "")
        self.size_bytes = 0
        self.fingerprint: dict[str, Any] = {}
        if stated is None:
            retrying(self._look)
        else:
            self.name, self.size_bytes = stated.name, stated.size_bytes
            self.fingerprint = stated.fingerprint

    @classmethod
    def at(cls, uri: str) -> Self:
        """The file at an address, with ``#sha256=<hex>`` where its digest is known beforehand.

        Raises:
            InvalidRequest: the fragment is something else.
        """
        address, _, fragment = uri.partition("#")
        stated = _SHA256_FRAGMENT.fullmatch(fragment.lower())
        if fragment and stated is None:
            raise InvalidRequest(
                f"#{fragment} states no digest", hint="#sha256=<64 hexadecimal digits>", path=uri
            )
        return cls(address, stated[1] if stated else None)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` bytes from ``offset``.

        Raises:
            CorruptCheckpoint: the range leaves the file.
            InvalidRequest: the server sends whole files only, and the range is far from the start.
            SourceUnavailable: the server does not answer, or has another version by now.
        """
        end = offset + size_bytes
        if end > self.size_bytes:
            raise CorruptCheckpoint(f"{self.name} ends before byte {end}", path=self.name)
        return retrying(partial(self._read, offset, end)) if size_bytes else b""

    def download(self, consume: Callable[[bytes], object], start: int = 0) -> None:
        """Pass all bytes from ``start`` on in order; where a connection is cut, go on from there.

        Raises:
            SourceUnavailable: several connections in a row brought nothing, or the server has
                another version by now.
        """
        position = start
        while position < self.size_bytes:
            position = retrying(partial(self._download, position, consume))

    def _look(self) -> None:
        with self._get(0, 1) as response:
            size_bytes = _total_bytes(response)
            if size_bytes is None:
                raise InvalidRequest(
                    f"{self.name}: the server does not tell the file's size", path=self.name
                )
            self.name = _file_name(self.address, response.headers.get("Content-Disposition", ""))
            self.size_bytes = size_bytes
            self.fingerprint = self._version = _version(response)

    def _read(self, offset: int, end: int) -> bytes:
        data = bytearray()
        with self._get(offset, end) as response:
            if response.status_code != HTTPStatus.PARTIAL_CONTENT and offset > _PIECE_BYTES:
                raise InvalidRequest(
                    f"{self.name}: the server sends no ranges, and this file isn't read in order",
                    hint="download it and give the file on disk",
                    path=self.name,
                )
            for piece in _body(response, offset):
                data += piece
                if len(data) >= end - offset:
                    return bytes(data[: end - offset])  # a server without ranges sends all
        raise SourceUnavailable(f"{self.name}: the answer is too short", path=self.name)

    def _download(self, position: int, consume: Callable[[bytes], object]) -> int:
        """Pass on what one connection brings; the position after it, beyond the given one."""
        reached = position
        pieces: list[bytes] = []
        try:
            with self._get(position, self.size_bytes) as response:
                for piece in _body(response, position):
                    pieces.append(piece)
                    reached += len(piece)
                    if sum(map(len, pieces)) >= _PIECE_BYTES:
                        consume(b"".join(pieces))
                        pieces.clear()
        except SourceUnavailable:
            if reached == position:
                raise
        if pieces:
            consume(b"".join(pieces))
        if reached > self.size_bytes:
            raise SourceUnavailable(f"{self.name}: more bytes than announced", path=self.name)
        return reached

    @contextmanager
    def _get(self, start: int, end: int) -> Iterator[httpx.Response]:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if validator := _validator(self._version or {}):
            headers["If-Range"] = validator
        with (
            translated(self.name),
            self._access.client.stream("GET", self.address, headers=headers) as response,
        ):
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise CorruptCheckpoint(
                    f"{self.name} is an empty file", hint="check the address", path=self.name
                )
            refuse_status(response, self.name, self._access.denied_hint)
            if response.headers.get("Content-Type", "").startswith("text/html"):
                raise self._page_error()
            if not self._is_this_version(response):
                raise SourceUnavailable(
                    f"{self.name}: the file changed on the server while it was read",
                    path=self.name,
                )
            yield response

    def _page_error(self) -> AccessDenied | CorruptCheckpoint:
        if self._access.denied_hint:
            return AccessDenied(
                f"{self.name}: the server answers with a web page, such as one to log in at",
                hint=self._access.denied_hint,
                path=self.name,
            )
        return CorruptCheckpoint(
            f"{self.name}: the address leads to a web page, not to a file",
            hint="use the address of the download itself; it may need a log-in",
            path=self.name,
        )

    def _is_this_version(self, response: httpx.Response) -> bool:
        if self._version is not None:
            return _version(response) == self._version
        return not self.size_bytes or _total_bytes(response) in (None, self.size_bytes)


def _body(response: httpx.Response, position: int) -> Iterator[bytes]:
    """The bytes of an answer from a position of the file on, whether or not it heeded the range."""
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        yield from response.iter_raw()
        return
    skip = position
    for piece in response.iter_raw():
        if skip < len(piece):
            yield piece[skip:]
        skip = max(0, skip - len(piece))


def _total_bytes(response: httpx.Response) -> int | None:
    ranged = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        return int(ranged[2]) if ranged else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _version(response: httpx.Response) -> dict[str, Any]:
    return {
        "bytes": _total_bytes(response),
        "etag": response.headers.get("ETag"),
        "last_modified": response.headers.get("Last-Modified"),
    }


def _validator(version: dict[str, Any]) -> str | None:
    """What ``If-Range`` compares: a strong entity tag, see RFC 9110, section 13.1.5."""
    etag = version.get("etag")
    return etag if etag and not etag.startswith("W/") else None


def _file_name(address: str, disposition: str) -> str:
    named = _FILE_NAME.search(disposition)
    path = named[1] if named else unquote(urlsplit(address).path)
    return PurePosixPath(path.replace("\\", "/")).name or "checkpoint"
