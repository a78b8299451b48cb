"""Lines between workers and their servers that can be trusted in nothing.

`BadStoreLine` speaks HTTP, so that it can fail one request of many in every way that a server,
a load balancer or a network does. `BadBrokerLine` passes bytes on until it is cut.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit

Fault = Literal["refused", "answer lost", "cut before", "cut after", "stalled", "truncated"]
FAULTS: tuple[Fault, ...] = (
    "refused",
    "answer lost",
    "cut before",
    "cut after",
    "stalled",
    "truncated",
)
"""What can become of a request: refused with 503; done, and answered with 500; not done, or done,
without an answer; done, and answered too late; answered with half of the body."""

_STALL_S = 1.0
_PIECE_BYTES = 1 << 16
_NO_BODY = (204, 304)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Drawn:
    """Draws which requests fail, and how.

    Attributes:
        rate: how many do, from 0 to 1; may be changed at any time.
    """

    def __init__(self, seed: int) -> None:
        self.rate = 0.0
        self._drawn = random.Random(seed)

    def __call__(self, _request: str) -> Fault | None:
        return self._drawn.choice(FAULTS) if self._drawn.random() < self.rate else None


class _Line:
    """A server on loopback, in a thread of its own.

    Args:
        upstream: host and port that it stands in front of.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        server = self._wait_for(asyncio.start_server(self._meet, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._wait_for(self._cut_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        raise NotImplementedError

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client has come."""
        ends = [writer]
        try:
            server = await asyncio.open_connection(*self._upstream)
            ends.append(server[1])
            for end in ends:
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.update(ends)
            await self._serve((reader, writer), server)
        except (OSError, EOFError):  # either side is gone, and so the other is let go
            pass
        finally:
            for end in ends:
                end.close()
            self._open.difference_update(ends)

    async def _cut_all(self) -> None:
        for end in list(self._open):
            _reset(end)

    def _wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)


class BadBrokerLine(_Line):
    """Passes bytes on until it is cut."""

    def cut(self) -> int:
        """Reset all connections; how many there were."""
        count = len(self._open) // 2
        self._wait_for(self._cut_all())
        return count

    async def _serve(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        ways = [
            asyncio.create_task(_pump(client[0], server[1])),
            asyncio.create_task(_pump(server[0], client[1])),
        ]
        _, pending = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in pending:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


class BadStoreLine(_Line):
    """Passes requests and answers on, but for some.

    Args:
        upstream: the server's ``http://host:port``.
        fault_of: tells by the first line of a request what becomes of it.

    Attributes:
        injected: how often each `Fault` was.
        requests: how many there were.
    """

    def __init__(self, upstream: str, fault_of: Callable[[str], Fault | None]) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        assert parts.port is not None
        super().__init__((parts.hostname, parts.port))
        self.injected: Counter[str] = Counter()
        self.requests = 0
        self._fault_of = fault_of

    @property
    def endpoint(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        (from_client, to_client), (from_server, to_server) = client, server
        while True:
            request = await _Message.read(from_client)
            if request.headers.get("expect"):
                to_client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await request.read_body(from_client, has_body=True)
            self.requests += 1
            fault = self._fault_of(request.start)
            if fault in ("refused", "cut before"):
                self.injected[fault] += 1
                if fault == "cut before":
                    _reset(to_client)
                    return
                to_client.write(_failure(503))
                continue
            to_server.write(request.passed_on())
            answer = await _Message.read(from_server)
            await answer.read_body(from_server, has_body=request.verb != "HEAD")
            if fault == "truncated" and len(answer.body) < 2:
                fault = "answer lost"  # there is nothing to truncate
            if fault is not None:
                self.injected[fault] += 1
            if fault == "stalled":
                await asyncio.sleep(_STALL_S)
            if fault in ("cut after", "stalled"):
                _reset(to_client)
                return
            if fault == "answer lost":
                to_client.write(_failure(500))
                continue
            if fault == "truncated":
                to_client.write(answer.head + answer.body[: len(answer.body) // 2])
                await to_client.drain()
                return
            to_client.write(answer.head + answer.body)
            await to_client.drain()


@dataclass
class _Message:
    """A request or an answer; names of headers are in lower case."""

    head: bytes
    start: str
    headers: dict[str, str]
    body: bytes = b""

    @staticmethod
    async def read(reader: asyncio.StreamReader) -> _Message:
        """The next one's head."""
        head = await reader.readuntil(b"\r\n\r\n")
        start, *lines = head.decode("latin-1").rstrip().split("\r\n")
        parted = (line.partition(":") for line in lines)
        return _Message(head, start, {name.lower(): value.strip() for name, _, value in parted})

    @property
    def verb(self) -> str:
        """Of a request."""
        return self.start.split(" ", 1)[0]

    def passed_on(self) -> bytes:
        """The whole request, for a server that is not asked whether it wants the body."""
        lines = self.head.split(b"\r\n")
        return b"\r\n".join(x for x in lines if not x.lower().startswith(b"expect:")) + self.body

    async def read_body(self, reader: asyncio.StreamReader, has_body: bool) -> None:
        """What follows the head."""
        status = self.start.split(" ")[1]
        if not has_body or (status.isdigit() and int(status) in _NO_BODY):
            return
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            self.body = await _chunks(reader)
        else:
            self.body = await reader.readexactly(int(self.headers.get("content-length", "0")))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body as it came."""
    read = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size_bytes = int(line.split(b";")[0], 16)
        read += line + await reader.readexactly(size_bytes + 2)
        if not size_bytes:
            return read


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()


def _failure(status: int) -> bytes:
    body = b"<Error><Code>InternalError</Code><Message>chaos</Message></Error>"
    head = f"HTTP/1.1 {status} Chaos\r\nContent-Type: application/xml\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
        )
    writer.transport.abort()
