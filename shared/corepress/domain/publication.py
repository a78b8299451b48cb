"""Publications: what people download, under which name, in which version, and whose name it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corepress.domain.artifact import Artifact
from corepress.domain.errors import InvalidRequest
from corepress.domain.hub_address import HubAddress

SCHEMA = "corepress.publication/1"
_VERSION_DIGITS = 16
_REVISION = re.compile(r"^(hf://[^/@]+/[^/@]+)@[^/]+")


@dataclass(frozen=True, slots=True)
class Publication:
    """A version of a build, as the catalogue has it.

    Attributes:
        number: counts the entries of a build, from 1; that of the highest is its latest version.
        job: the one that published it first.
        published: when it was entered: ISO 8601, UTC.
        recipe: its name; the whole recipe is in the bundle's manifest.
        source: ``uri`` and ``sha256``.
        components: by name ``sha256``, ``bytes``, ``precision``, ``psnr_db`` and ``toolchain``.
        toolchain: the versions that made the bundle.
        steps: the actions it was made of, by the ids of the job's nodes.
        promotes: of a version that was made the latest again, the number it had before.
    """

    name: str
    build: str
    number: int
    version: str
    job: str
    published: str
    recipe: str
    family: str
    prediction_type: str
    sizes: list[list[int]]
    bytes: int
    licence: str | None
    source: Mapping[str, str]
    components: Mapping[str, Mapping[str, Any]]
    toolchain: Mapping[str, str]
    steps: Mapping[str, str]
    promotes: int | None = None
    schema: str = SCHEMA

    @property
    def path(self) -> str:
        """Where its files are."""
        return f"{build_prefix(self.name, self.build)}{self.version}/"


def build_prefix(name: str, build: str) -> str:
    """Where a build's versions are."""
    return f"published/{name}/{build}/"


def version_of(bundle: Artifact) -> str:
    """A bundle's version: equal bundles have the same."""
    return bundle.identity.removeprefix("sha256:")[:_VERSION_DIGITS]


def hub_target(uri: str) -> HubAddress:
    """Where a bundle is to be published beside the store: a repository, perhaps a branch of it.

    Raises:
        InvalidRequest: it is something else.
    """
    address = HubAddress.parse(uri)
    if address is None or address.path:
        raise InvalidRequest(
            f"{uri!r} is no repository to publish to",
            hint="hf://owner/name, or hf://owner/name@branch",
            path="publish",
        )
    return address


def is_same_source(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two sources are one: the same content, or the same address at another time.

    The address of a local file says nothing on another host, so for those only content counts.

    Args:
        one: ``uri`` and ``sha256``, as a manifest has them.
        other: likewise.
    """
    if one["sha256"] == other["sha256"]:
        return True
    address = _REVISION.sub(r"\1", one["uri"])
    return not address.startswith("file:") and address == _REVISION.sub(r"\1", other["uri"])
