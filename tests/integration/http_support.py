"""A web server on this machine that has one file, and breaks in every way that servers do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What the server has, how it fails, and what it was asked for.

    ``failures`` are statuses that the next answers have; ``cuts`` the numbers of bytes after
    which the next answers break off.
    """

    data: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    content_type: str = "application/octet-stream"
    disposition: str = ""
    retry_after: str = ""
    failures: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    uri: str = ""


@contextmanager
def serving(state: Server) -> Iterator[Server]:
    """A server as described, at the address that it gets."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers.get("Range", ""))
            if state.failures:
                self.send_response(state.failures.pop(0))
                if state.retry_after:
                    self.send_header("Retry-After", state.retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if not state.data and state.ranges:
                self.send_error(416)
                return
            first, last = self.range()
            self.send_header("Content-Length", str(last - first + 1))
            self.send_header("Content-Type", state.content_type)
            if state.etag:
                self.send_header("ETag", state.etag)
            if state.disposition:
                self.send_header("Content-Disposition", state.disposition)
            self.end_headers()
            body = state.data[first : last + 1]
            if len(body) > 1_000_000 and state.cuts:
                body = body[: state.cuts.pop(0)]
                self.close_connection = True
            state.sent_bytes += len(body)
            self.wfile.write(body)

        def range(self) -> tuple[int, int]:
            size = len(state.data)
            condition = self.headers.get("If-Range")
            asked = self.headers.get("Range") if condition in (None, state.etag) else None
            if asked is None or not state.ranges:
                self.send_response(200)
                return 0, size - 1
            first, last = (int(bound) for bound in asked.removeprefix("bytes=").split("-"))
            last = min(last, size - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            return first, last

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.handle_error = lambda *_: None  # clients hang up when they have seen enough
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    state.uri = f"http://127.0.0.1:{http.server_port}/models/tiny.safetensors?download=true"
    try:
        yield state
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
