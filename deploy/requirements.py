"""Writes services/*/requirements.lock: run it where requirements.lock is installed, then commit.

Each list is what one service's worker needs and nothing else, in the versions of requirements.lock,
to be installed with ``pip install --no-deps``. The service's extra in pyproject.toml says where to
begin, the installed distributions say what they need in turn.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVICES = ("compile", "fetch", "intake", "normalize", "publish")
FLEET = "fleet"

_HEAD = "# Made by deploy/requirements.py from pyproject.toml and the requirements.lock of all."
_ALONE = frozenset({"open-clip-torch"})
"""Of this one, a file is read: it is never imported, so that what it needs isn't needed."""
_SYSTEMS = (
    {"sys_platform": "linux", "platform_system": "Linux"},
    {"sys_platform": "darwin", "platform_system": "Darwin"},
)


def locked_versions() -> dict[str, str]:
    """Every distribution's version, by its canonical name."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    found = [Requirement(line) for line in (*lines, *pinned) if "==" in line]
    return {
        canonicalize_name(each.name): next(iter(each.specifier)).version
        for each in found
        if each.name != PROJECT["name"]
    }


def requirements(service: str) -> dict[str, str]:
    """What a service's worker needs: versions by canonical name.

    What is not locked is left out, such as CUDA's libraries: the tests do without it, too.
    """
    versions = locked_versions()
    needed: set[str] = set()
    waiting = [*_declared(service), *_declared(FLEET), *PROJECT["dependencies"]]
    while waiting:
        name = canonicalize_name(Requirement(waiting.pop()).name)
        if name in needed or name not in versions:
            continue
        needed.add(name)
        if name not in _ALONE:
            waiting += _applicable(requires(name) or ())
    return {name: versions[name] for name in sorted(needed)}


def page(service: str) -> str:
    """The text of a service's list."""
    return "\n".join([_HEAD, *(f"{name}=={v}" for name, v in requirements(service).items()), ""])


def path(service: str) -> Path:
    """Where a service's list is."""
    return ROOT / "services" / service / "requirements.lock"


def _declared(extra: str) -> Iterator[str]:
    """The requirements of an extra, with those of the extras that it names."""
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            for other in requirement.extras:
                yield from _declared(other)
        else:
            yield line


def _applicable(lines: Iterable[str]) -> Iterator[str]:
    """Those that hold on Linux or on macOS, without any extra."""
    for line in lines:
        marker = Requirement(line).marker
        environments = ({**default_environment(), **system, "extra": ""} for system in _SYSTEMS)
        if marker is None or any(marker.evaluate(each) for each in environments):
            yield line


if __name__ == "__main__":
    for each in SERVICES:
        path(each).write_text(page(each))
