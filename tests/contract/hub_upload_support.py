"""A Hugging Face hub on this machine that takes commits, by Git LFS where files are large.

The endpoints and their answers are those that `huggingface_hub` uses:
https://github.com/huggingface/huggingface_hub, ``hf_api.py``, ``_commit_api.py`` and ``lfs.py``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_of_a_test"
Files = dict[str, bytes]
_LARGE = (".zip", ".bin", ".mlmodel")


@dataclass
class Repository:
    """The commits of a branch, the newest last."""

    commits: list[tuple[str, Files]]
    messages: list[str] = field(default_factory=list)
    private: bool = False

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> Files:
        return self.commits[-1][1]


@dataclass
class UploadHub:
    """What the hub has and was sent.

    ``failures`` are statuses of the next answers; ``before_commit`` is called at the next commit.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: int = 0
    failures: list[int] = field(default_factory=list)
    before_commit: list[Callable[[], Any]] = field(default_factory=list)
    address: str = ""

    def create(self, name: str, private: bool = False) -> Repository:
        """Make a repository; like the real one it has a commit."""
        self.repositories[name] = Repository([], private=private)
        self.commit(name, {".gitattributes": b"*.zip filter=lfs\n"}, "initial commit")
        return self.repositories[name]

    def commit(self, name: str, files: Files, message: str) -> str:
        repository = self.repositories[name]
        digest = hashlib.sha1(repr((len(repository.commits), sorted(files))).encode()).hexdigest()
        repository.commits.append((digest, files))
        repository.messages.append(message)
        return digest


@contextmanager
def uploading_hub() -> Iterator[UploadHub]:
    """The hub, at the address that it gets."""
    hub = UploadHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.refused():
                self.answer(self.got(unquote(urlsplit(self.path).path)))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not self.refused():
                self.answer(self.posted(unquote(urlsplit(self.path).path), body))

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            oid = self.path.removeprefix("/storage/")
            assert hashlib.sha256(data).hexdigest() == oid
            hub.objects[oid] = data
            hub.uploads += 1
            self.answer((200, {}))

        def refused(self) -> bool:
            if hub.failures:
                self.answer((hub.failures.pop(0), {"error": "not now"}))
                return True
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer((401, {"error": "Invalid credentials"}))
                return True
            return False

        def got(self, path: str) -> tuple[int, Any]:
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                repository = hub.repositories[found[1]]
                return 200, {"id": found[1], "sha": repository.head, "siblings": []}
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([0-9a-f]+)", path)
            assert found, path
            files = dict(hub.repositories[found[1]].commits)[found[2]]
            return 200, [
                {"type": "file", "path": path, "size": len(data), "oid": _oid(path, data)}
                for path, data in files.items()
            ]

        def posted(self, path: str, body: bytes) -> tuple[int, Any]:
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
            if found and found[2] == "commit":
                return self.committed(found[1], [json.loads(line) for line in body.splitlines()])
            asked = json.loads(body)
            if found:
                there = hub.repositories[found[1]].files
                return 200, {"files": [_mode(each, there) for each in asked["files"]]}
            if path == "/api/repos/create":
                return self.created(asked)
            if path == "/api/validate-yaml":
                yaml.safe_load(asked["content"].split("---\n")[1])
                return 200, {"errors": [], "warnings": []}
            if path == "/verify":
                assert len(hub.objects[asked["oid"]]) == asked["size"]
                return 200, {}
            assert path.endswith(".git/info/lfs/objects/batch"), path
            return 200, {"objects": [self.wanted(each) for each in asked["objects"]]}

        def created(self, asked: dict[str, Any]) -> tuple[int, Any]:
            name = f"{asked['organization']}/{asked['name']}"
            answer = {"url": f"{hub.address}/{name}"}
            if name in hub.repositories:
                return 409, answer | {"error": "You already created this model repo"}
            hub.create(name, asked.get("visibility") == "private")
            return 200, answer

        def wanted(self, asked: dict[str, Any]) -> dict[str, Any]:
            if asked["oid"] in hub.objects:
                return asked
            return asked | {
                "actions": {
                    "upload": {"href": f"{hub.address}/storage/{asked['oid']}"},
                    "verify": {"href": f"{hub.address}/verify"},
                }
            }

        def committed(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
            if hub.before_commit:
                hub.before_commit.pop(0)()
            repository = hub.repositories[name]
            header = lines[0]["value"]
            if header.get("parentCommit", repository.head) != repository.head:
                return 412, {"error": "A commit has happened since. Please refresh and try again."}
            files = dict(repository.files)
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
                else:
                    assert line["key"] == "deletedFile", line
                    del files[value["path"]]
            digest = hub.commit(name, files, header["summary"])
            return 200, {"commitUrl": f"{hub.address}/{name}/commit/{digest}", "commitOid": digest}

        def answer(self, answer: tuple[int, Any]) -> None:
            status, document = answer
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 401:
                self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    hub.address = f"http://127.0.0.1:{http.server_port}"
    try:
        yield hub
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _mode(asked: dict[str, Any], there: Files) -> dict[str, Any]:
    path = asked["path"]
    mode = "lfs" if path.endswith(_LARGE) else "regular"
    oid = _oid(path, there[path]) if path in there else None
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def _oid(path: str, data: bytes) -> str:
    if path.endswith(_LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
