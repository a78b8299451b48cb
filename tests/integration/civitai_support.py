"""Civitai on this machine: its API for model versions, and its downloads on another server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from http_support import FileHandler, Traffic, served

TOKEN = "civitai-token-of-a-test"


@dataclass
class Entry:
    """A file of a model version."""

    name: str
    data: bytes
    type: str = "Model"
    format: str = "SafeTensor"
    primary: bool = False
    sha256: str | None = None

    def document(self, address: str) -> dict[str, Any]:
        """The file as the API shows it, its size in rounded kilobytes."""
        digest = self.sha256 or hashlib.sha256(self.data).hexdigest()
        primary = {"primary": True} if self.primary else {}
        return {
            "name": self.name,
            "type": self.type,
            "sizeKB": round(len(self.data) / 1024, 3),
            "metadata": {"fp": "fp16", "size": "pruned", "format": self.format},
            "hashes": {"AutoV2": digest[:10].upper(), "SHA256": digest.upper()},
            "downloadUrl": address,
            **primary,
        }


@dataclass
class Civitai:
    """Model versions by their number, what it was asked for, and whether downloads need a token.

    ``storage_asked_with`` are the tokens that its storage was shown.
    """

    versions: dict[int, list[Entry]]
    traffic: Traffic = field(default_factory=Traffic)
    needs_token: bool = False
    storage_asked_with: set[str | None] = field(default_factory=set)
    address: str = ""


@contextmanager
def civitai_of(site: Civitai) -> Iterator[Civitai]:
    """The site as described, at the address that it gets."""

    class Storage(FileHandler):
        def do_GET(self) -> None:
            site.storage_asked_with.add(self.headers.get("Authorization"))
            _, version, number = self.path.split("/")
            if not self.fail(site.traffic):
                self.send_file(site.versions[int(version)][int(number)].data, site.traffic)

    class Api(FileHandler):
        def do_GET(self) -> None:
            version, _, number = self.path.rpartition("/")[2].partition("?file=")
            entries = site.versions.get(int(version)) if version.isdecimal() else None
            if self.path == "/login":
                self.send_body(b"<!DOCTYPE html><p>Log in", "text/html")
            elif entries is None:
                self.send_error(404)
            elif self.path.startswith("/api/v1/model-versions/"):
                self.send_body(json.dumps(self.described(version, entries)).encode())
            elif site.needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.redirect("/login")
            else:
                self.redirect(f"{storage}/{version}/{number}")

        def described(self, version: str, entries: list[Entry]) -> dict[str, Any]:
            address = f"{site.address}/api/download/models/{version}?file="
            files = [entry.document(f"{address}{n}") for n, entry in enumerate(entries)]
            return {
                "id": int(version),
                "modelId": 7,
                "name": "v2",
                "model": {"name": "Tiny", "type": "Checkpoint"},
                "files": files,
            }

        def redirect(self, address: str) -> None:
            self.send_response(307)
            self.send_header("Location", address)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_body(self, body: bytes, kind: str = "application/json") -> None:
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ExitStack() as stack:
        storage = stack.enter_context(served(Storage))
        site.address = stack.enter_context(served(Api))
        yield site
