"""Web servers on this machine, which break in every way that servers do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_LARGE_BYTES = 1_000_000
_STEP_BYTES = 1 << 16


@dataclass
class Traffic:
    """How a server sends files, how it fails, and what it was asked for.

    ``failures`` are statuses that the next answers have; ``cuts`` the numbers of bytes after
    which the next large answers break off; after ``stall_bytes`` of a large one nothing more comes
    until ``released``.
    """

    etag: str | None = '"one"'
    ranges: bool = True
    content_type: str = "application/octet-stream"
    disposition: str = ""
    retry_after: str = ""
    failures: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    stall_bytes: int | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class FileHandler(BaseHTTPRequestHandler):
    """Sends files."""

    def fail(self, traffic: Traffic) -> bool:
        """Answer with the next failure, if there is one."""
        if not traffic.failures:
            return False
        self.send_response(traffic.failures.pop(0))
        if traffic.retry_after:
            self.send_header("Retry-After", traffic.retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def send_file(self, data: bytes, traffic: Traffic) -> None:
        """Answer with a file, or the range of it that is asked for."""
        traffic.asked.append(self.headers.get("Range", ""))
        if not data and traffic.ranges:
            self.send_error(416)
            return
        first, last = self._range(data, traffic)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Type", traffic.content_type)
        if traffic.etag:
            self.send_header("ETag", traffic.etag)
        if traffic.disposition:
            self.send_header("Content-Disposition", traffic.disposition)
        self.end_headers()
        body = data[first : last + 1]
        if len(body) > _LARGE_BYTES and traffic.cuts:
            body = body[: traffic.cuts.pop(0)]
            self.close_connection = True
        if len(body) <= _LARGE_BYTES:
            traffic.sent_bytes += len(body)
            self.wfile.write(body)
            return
        for start in range(0, len(body), _STEP_BYTES):
            if traffic.stall_bytes is not None and start >= traffic.stall_bytes:
                traffic.stalled.set()
                traffic.released.wait()
            traffic.sent_bytes += self.wfile.write(body[start : start + _STEP_BYTES])

    def _range(self, data: bytes, traffic: Traffic) -> tuple[int, int]:
        size = len(data)
        condition = self.headers.get("If-Range")
        asked = self.headers.get("Range") if condition in (None, traffic.etag) else None
        if asked is None or not traffic.ranges:
            self.send_response(200)
            return 0, size - 1
        first, last = (int(bound) for bound in asked.removeprefix("bytes=").split("-"))
        last = min(last, size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        return first, last

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server on this machine; its address."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.handle_error = lambda *_: None  # clients hang up when they have seen enough
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@dataclass
class Server(Traffic):
    """A server that has one file."""

    data: bytes = b""
    uri: str = ""


@contextmanager
def serving(state: Server) -> Iterator[Server]:
    """A server as described, at the address that it gets."""

    class Handler(FileHandler):
        def do_GET(self) -> None:
            if state.failures:
                state.asked.append(self.headers.get("Range", ""))
            if not self.fail(state):
                self.send_file(state.data, state)

    with served(Handler) as address:
        state.uri = f"{address}/models/tiny.safetensors?download=true"
        try:
            yield state
        finally:
            state.released.set()
