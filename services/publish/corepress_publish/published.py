"""A published bundle, read back: what its manifest says, and whether its files are as listed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from corepress.domain.bundle import (
    CHECKSUMS,
    MANIFEST,
    RESOURCES,
    SCHEMA,
    component_of,
    missing_resources,
)
from corepress.domain.errors import CorruptBundle, VerificationFailed
from corepress.domain.recipe import Precision, Recipe

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """What a manifest says of one model; ``inputs`` and ``outputs`` are name, shape and dtype."""

    path: str
    precision: Precision
    inputs: list[Mapping[str, Any]]
    outputs: list[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A checkpoint beside the base model."""

    family: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What verifying needs of a bundle's ``manifest.json``; ``sizes`` are (width, height).

    ``components`` and ``attachments`` go by the names of models.
    """

    schema: str
    name: str
    family: str
    prediction_type: str
    vae_scale_factor: int | None
    scaling_factor: float | None
    clip_skip: int | None
    sizes: list[tuple[int, int]]
    recipe: Recipe
    normalized: Mapping[str, str]
    components: Mapping[str, PublishedModel]
    trained_prediction_type: str | None = None
    guidance_scale: float | None = None
    attachments: Mapping[str, Attachment] = field(default_factory=dict)


_ADAPTER = TypeAdapter(Manifest)


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        CorruptBundle: there is none, or it is not one of ours.
    """
    try:
        manifest = _ADAPTER.validate_json((bundle / MANIFEST).read_bytes())
        for name in manifest.components:
            component_of(name)
    except (OSError, ValueError) as error:
        raise CorruptBundle(
            f"{bundle} has no usable {MANIFEST}: {error}",
            hint="give the folder that holds manifest.json and Resources/, or a .mlpackage",
            path=str(bundle),
        ) from error
    if manifest.schema != SCHEMA:
        raise CorruptBundle(
            f"{bundle} follows the schema {manifest.schema!r}, this version knows {SCHEMA!r}",
            hint="use the version of Corepress that its manifest names",
            path=str(bundle),
        )
    for model in manifest.components.values():
        _inside(model.path, MANIFEST)
    return manifest


def check_sums(bundle: Path, progress: Callable[[int, int], None]) -> int:
    """Hold a bundle's files to its ``SHA256SUMS``: each is there and as listed, and no other is.

    Args:
        bundle: the bundle's folder.
        progress: takes the bytes read, and those of all listed files.

    Returns:
        how many files are listed.

    Raises:
        CorruptBundle: the list is unreadable.
        VerificationFailed: names what differs.
    """
    listed = dict(_listed(bundle))
    present = {
        path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()
    }
    present.pop(CHECKSUMS)
    problems = [f"{path} is missing" for path in listed if path not in present]
    total = sum(present[path].stat().st_size for path in listed if path in present)
    done = 0
    for path, expected in listed.items():
        if path not in present:
            continue
        with present[path].open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
            done += stream.tell()
        progress(done, total)
        if actual != expected:
            problems.append(f"{path} differs: its sha256 is {actual}")
    problems += [f"{path} was not published" for path in sorted(present.keys() - listed.keys())]
    if problems:
        more = len(problems) - _MOST_NAMED
        named = "; ".join(problems[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise VerificationFailed(
            f"{bundle} is not as it was published: {named}",
            hint="download or build the bundle again",
            path=str(bundle),
        )
    return len(listed)


def missing_from(bundle: Path, manifest: Manifest) -> list[str]:
    """What the bundle lacks for an app to make images with it alone."""
    models = {PurePosixPath(model.path).stem for model in manifest.components.values()}
    files = {path.name for path in (bundle / RESOURCES).glob("*") if path.is_file()}
    return missing_resources(manifest.family, models | files)


def _listed(bundle: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = (bundle / CHECKSUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptBundle(f"cannot read {CHECKSUMS}: {error}", path=str(bundle)) from error
    for line in lines:
        expected, separator, path = line.partition("  ")
        if not separator:
            raise CorruptBundle(
                f"{CHECKSUMS}: {line[:80]!r} is no checksum and file name", path=str(bundle)
            )
        _inside(path, CHECKSUMS)
        yield path, expected


def _inside(path: str, named_by: str) -> None:
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise CorruptBundle(f"{named_by} names {path}, outside the bundle", path=path)
