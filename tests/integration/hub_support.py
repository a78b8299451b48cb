"""A Hugging Face hub on this machine: its API for models, and its storage on another server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from http_support import FileHandler, Traffic, served

TOKEN = "hf_of_a_test"
Files = dict[str, bytes]


@dataclass
class Repository:
    """A model repository: the files of each of its commits, and what its branches stand for.

    ``gated`` is one whose licence has to be accepted, ``private`` one that only its owner sees.
    """

    commits: dict[str, Files]
    branches: dict[str, str]
    gated: bool = False
    private: bool = False


def repository(files: Files, **more: Any) -> Repository:
    """A repository with one commit."""
    commit = hashlib.sha1(b"".join(files.values())).hexdigest()
    return Repository({commit: files}, {"main": commit}, **more)


@dataclass
class Hub:
    """What the hub has and was asked for.

    ``damaged`` are files that it sends other bytes of. ``storage_asked_with`` are the tokens that
    its storage was shown, ``files_asked`` the files that were asked for.
    """

    repositories: dict[str, Repository]
    traffic: Traffic = field(default_factory=Traffic)
    damaged: set[str] = field(default_factory=set)
    storage_asked_with: set[str | None] = field(default_factory=set)
    files_asked: set[str] = field(default_factory=set)
    address: str = ""


@contextmanager
def hub_of(hub: Hub) -> Iterator[Hub]:
    """The hub as described, at the address that it gets.

    Like the real one it keeps large files elsewhere, in a place that takes no token.
    """

    class Storage(FileHandler):
        def do_GET(self) -> None:
            hub.storage_asked_with.add(self.headers.get("Authorization"))
            content = {
                hashlib.sha256(data).hexdigest(): (name, data)
                for repo in hub.repositories.values()
                for files in repo.commits.values()
                for name, data in files.items()
            }
            name, data = content[self.path.strip("/")]
            if name in hub.damaged:
                data = data[:-1] + bytes([data[-1] ^ 1])
            if not self.fail(hub.traffic):
                self.send_file(data, hub.traffic)

    class Api(FileHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path).path.strip("/").split("/")
            if self.fail(hub.traffic):
                return
            is_api = parts[:2] == ["api", "models"]
            name, rest = "/".join(parts[2:4] if is_api else parts[:2]), parts[4 if is_api else 2 :]
            repo = hub.repositories.get(name)
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if repo is None or (repo.private and not known):
                self.refuse(404 if known else 401, "RepoNotFound", "Repository not found")
                return
            revision = unquote(rest[1]) if rest else "main"
            commit = repo.branches.get(revision, revision)
            if commit not in repo.commits:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            elif is_api:
                self.send_json(self.described(name, repo, commit))
            elif repo.gated and not known:
                self.refuse(403, "GatedRepo", f"Access to model {name} is restricted")
            else:
                self.send_content(repo.commits[commit], unquote("/".join(rest[2:])))

        def described(self, name: str, repo: Repository, commit: str) -> dict[str, Any]:
            files = repo.commits[commit]
            siblings = [
                {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
                | ({"lfs": _pointer(data)} if _is_large(path) else {})
                for path, data in files.items()
            ]
            gated = "manual" if repo.gated else False
            return {"id": name, "sha": commit, "gated": gated, "siblings": siblings}

        def send_content(self, files: Files, path: str) -> None:
            hub.files_asked.add(path)
            if path not in files:
                self.refuse(404, "EntryNotFound", "Entry not found")
            elif _is_large(path):
                self.send_response(302)
                digest = hashlib.sha256(files[path]).hexdigest()
                self.send_header("Location", f"{storage}/{digest}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.send_file(files[path], hub.traffic)

        def send_json(self, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def refuse(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ExitStack() as stack:
        storage = stack.enter_context(served(Storage))
        hub.address = stack.enter_context(served(Api))
        try:
            yield hub
        finally:
            hub.traffic.released.set()


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def _pointer(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
