"""Addresses of repositories on a Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote

SCHEME = "hf"

_ADDRESS = re.compile(
    r"hf://(?P<owner>[^/@]+)/(?P<name>[^/@]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?"
    r"(?:/(?P<path>.*))?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """``hf://owner/name[@revision][/path]``.

    ``revision`` is a branch, a tag or a commit, None for the main branch; slashes in it are written
    ``%2F``, but for those of ``refs/pr/7``. ``path`` is a file or a folder of the repository, empty
    for all of it.
    """

    owner: str
    name: str
    revision: str | None = None
    path: str = ""

    @classmethod
    def parse(cls, uri: str) -> Self | None:
        """The parts of an address, None of what is none."""
        found = _ADDRESS.fullmatch(uri)
        if found is None:
            return None
        revision = found["revision"]
        return cls(
            found["owner"],
            found["name"],
            unquote(revision) if revision else None,
            (found["path"] or "").strip("/"),
        )

    @property
    def repository(self) -> str:
        """Owner and name, as the hub calls it."""
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"{SCHEME}://{self.repository}{revision}" + (f"/{self.path}" if self.path else "")
