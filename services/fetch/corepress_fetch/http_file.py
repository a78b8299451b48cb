"""A file on a web server: read by ranges, or downloaded over as many connections as it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from corepress.domain.errors import CorruptCheckpoint, InvalidRequest, SourceUnavailable
from corepress_fetch.http_retry import refuse_status, retrying, translated

_TIMEOUT = httpx.Timeout(30, connect=10)
_PIECE_BYTES = 4 << 20
_SHA256_FRAGMENT = re.compile(r"sha256=([0-9a-f]{64})")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")
_FILE_NAME = re.compile(r"filename=\"?([^\";]+)\"?")


class HttpFile:
    """One version of a file on a server; to meet another version is an error.

    Attributes:
        name: its name, without any path.
        size_bytes: its size.
        sha256: the hexadecimal digest that it must have, None where the address states none.
        fingerprint: what the server says of this version, as plain JSON.

    Args:
        uri: its address, with ``#sha256=<hex>`` where the digest is known beforehand.

    Raises:
        InvalidRequest: no valid address, or the server does not tell the size.
        SourceNotFound, AccessDenied, SourceUnavailable: as the server answers.
        CorruptCheckpoint: the server answers with a web page, or the file is empty.
    """

    def __init__(self, uri: str) -> None:
        self._address, _, fragment = uri.partition("#")
        stated = _SHA256_FRAGMENT.fullmatch(fragment.lower())
        if fragment and stated is None:
            raise InvalidRequest(
                f"#{fragment} states no digest", hint="#sha256=<64 hexadecimal digits>", path=uri
            )
        self.sha256 = stated[1] if stated else None
        self.name = _file_name(self._address, "")
        self.size_bytes = 0
        self.fingerprint: dict[str, Any] = {}
        # Compressed answers could not be resumed by ranges of the file.
        self._client = httpx.Client(
            timeout=_TIMEOUT, follow_redirects=True, headers={"Accept-Encoding": "identity"}
        )
        retrying(self._look)

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

    def download(self, consume: Callable[[bytes], object]) -> None:
        """Pass all bytes on in order; where a connection is cut, the next one continues.

        Raises:
            SourceUnavailable: several connections in a row brought nothing, or the server has
                another version by now.
        """
        position = 0
        while position < self.size_bytes:
            position = retrying(partial(self._download, position, consume))

    def hold_to_digest(self, sha256: str) -> None:
        """Hold what was downloaded to the digest that the address states, if it states one.

        Raises:
            CorruptCheckpoint: it is another.
        """
        if self.sha256 not in (None, sha256):
            raise CorruptCheckpoint(
                f"{self.name} has the digest sha256:{sha256}, not sha256:{self.sha256}",
                hint="the file on the server is not the one that was asked for",
                path=self.name,
            )

    def _look(self) -> None:
        with self._get(0, 1) as response:
            size_bytes = _total_bytes(response)
            if size_bytes is None:
                raise InvalidRequest(
                    f"{self.name}: the server does not tell the file's size", path=self.name
                )
            self.name = _file_name(self._address, response.headers.get("Content-Disposition", ""))
            self.size_bytes = size_bytes
            self.fingerprint = _version(response)

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
        if validator := _validator(self.fingerprint):
            headers["If-Range"] = validator
        with (
            translated(self.name),
            self._client.stream("GET", self._address, headers=headers) as response,
        ):
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise CorruptCheckpoint(
                    f"{self.name} is an empty file", hint="check the address", path=self.name
                )
            refuse_status(response, self.name)
            if response.headers.get("Content-Type", "").startswith("text/html"):
                raise CorruptCheckpoint(
                    f"{self.name}: the address leads to a web page, not to a file",
                    hint="use the address of the download itself; it may need a log-in",
                    path=self.name,
                )
            if self.fingerprint and _version(response) != self.fingerprint:
                raise SourceUnavailable(
                    f"{self.name}: the file changed on the server while it was read",
                    path=self.name,
                )
            yield response


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
