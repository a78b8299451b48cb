"""The catalogue: a fold over immutable entries, one per publication.

An entry's key holds its number, so that whoever creates the next one has won it: the entries of a
build have one order, and publishing again what has one changes nothing. What an older version's
entry says can be entered again, which makes that version the latest. All else is derived from
entries and may be overtaken by another writer: ``latest.json`` of a build, and ``catalogue.json``
(see `corepress.runtime.catalogue_page`). Whoever writes one of these looks at the entries again
afterwards, and writes anew if there are more: so the last to write has seen all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from corepress.domain.artifact import Artifact, canonical_json
from corepress.domain.bundle import MANIFEST
from corepress.domain.errors import InvalidRequest, NameTaken
from corepress.domain.plan import publish_step
from corepress.domain.publication import (
    Publication,
    build_prefix,
    is_same_source,
    version_of,
)
from corepress.ports.clock import Clock
from corepress.ports.store import DocumentNotFound, Store
from corepress.runtime import jobs

ENTRIES = "catalogue/entries/"
"""Where the entries are, as ``<name>/<build>/<number>.json``."""
ADAPTER: TypeAdapter[Publication] = TypeAdapter(Publication)
"""Reads and writes them."""


def claim_name(store: Store, name: str, source: Mapping[str, str]) -> None:
    """Take a published name for a source, or find that it has it.

    Args:
        store: where things are published.
        name: of a job.
        source: ``uri`` and ``sha256``, as the bundle's manifest has them.

    Raises:
        NameTaken: the name is that of another source.
    """
    key = f"published/{name}/owner.json"
    if store.create(key, canonical_json(dict(source))):
        return
    owner = json.loads(store.get(key))
    if not is_same_source(owner, source):
        raise NameTaken(
            f"{name!r} is published from {owner['uri']} (sha256 {owner['sha256']}), and this is "
            f"{source['uri']} (sha256 {source['sha256']})",
            hint="publish it under a name of its own, with --name",
            path=name,
        )


def enter(
    store: Store,
    clock: Clock,
    job: str,
    name: str,
    build: str,
    bundle: Artifact,
    manifest: Mapping[str, Any],
) -> Publication:
    """Enter a version whose files are in their place, and have ``latest.json`` name the latest.

    Args:
        store: where things are published.
        clock: tells the time of publication.
        job: which published it.
        name: the job's.
        build: which of its builds this is.
        bundle: its files.
        manifest: the bundle's.

    Returns:
        its entry; that of the first publication where it was published before.

    Raises:
        InvalidRequest: there is no such job.
    """
    version = version_of(bundle)
    while True:
        known = versions(store, name, build)
        entry = next((each for each in known if each.version == version), None)
        if entry is None:
            number = known[-1].number + 1 if known else 1
            made_of = jobs.made_of(store, job, publish_step(build))
            entry = _entry(clock, job, name, build, number, bundle, manifest, made_of)
            if not _create(store, entry):
                continue  # another publisher was first
        _point_at_latest(store, name, build)
        return entry


def promote(store: Store, clock: Clock, name: str, build: str, version: str) -> Publication:
    """Make a published version the latest of its build again.

    Args:
        store: where things are published.
        clock: tells the time.
        name: of the build's job.
        build: which of its builds.
        version: the version's name, or enough of its beginning.

    Returns:
        its newest entry; there is no new one where it is the latest already.

    Raises:
        InvalidRequest: there is no such version, or there are several; or its files are gone.
    """
    while True:
        known = versions(store, name, build)
        chosen = _chosen(known, name, build, version)
        if chosen != known[-1]:
            _refuse_removed(store, chosen)
            number = known[-1].number + 1
            published = _time(clock)
            again = replace(chosen, number=number, published=published, promotes=chosen.number)
            if not _create(store, again):
                continue  # somebody published meanwhile
            chosen = again
        _point_at_latest(store, name, build)
        return chosen


def versions(store: Store, name: str, build: str) -> list[Publication]:
    """The published versions of a build, the first published first."""
    keys = store.keys(f"{ENTRIES}{name}/{build}/")
    return [ADAPTER.validate_json(store.get(key)) for key in keys]


def latest(found: list[Publication]) -> list[Publication]:
    """Of all publications the last of each build."""
    return list({(entry.name, entry.build): entry for entry in found}.values())


def _create(store: Store, entry: Publication) -> bool:
    key = f"{ENTRIES}{entry.name}/{entry.build}/{entry.number:08d}.json"
    return store.create(key, ADAPTER.dump_json(entry))


def _chosen(known: list[Publication], name: str, build: str, version: str) -> Publication:
    """The newest entry of the version that is meant.

    Raises:
        InvalidRequest: see `promote`.
    """
    if not known:
        raise InvalidRequest(
            f"nothing is published as {name}/{build}",
            hint="`corepress catalogue` lists what is",
            path=f"{name}/{build}",
        )
    found = {entry.version: entry for entry in known if entry.version.startswith(version)}
    if len(found) != 1:
        there = ", ".join(dict.fromkeys(entry.version for entry in known))
        raise InvalidRequest(
            f"{version!r} is {'several versions' if found else 'no version'} of {name}/{build}",
            hint=f"there are {there}",
            path=version,
        )
    return next(iter(found.values()))


def _refuse_removed(store: Store, entry: Publication) -> None:
    try:
        store.get(f"{entry.path}{MANIFEST}")
    except DocumentNotFound:
        raise InvalidRequest(
            f"the files of version {entry.version} are gone from {entry.path}",
            hint="submit its source again",
            path=entry.path,
        ) from None


def _point_at_latest(store: Store, name: str, build: str) -> None:
    written = None
    while (last := _last(store, name, build)).number != written:
        document = {"version": last.version, "number": last.number, "path": last.path}
        store.put(f"{build_prefix(name, build)}latest.json", canonical_json(document))
        written = last.number


def _last(store: Store, name: str, build: str) -> Publication:
    *_, key = store.keys(f"{ENTRIES}{name}/{build}/")
    return ADAPTER.validate_json(store.get(key))


def _entry(
    clock: Clock,
    job: str,
    name: str,
    build: str,
    number: int,
    bundle: Artifact,
    manifest: Mapping[str, Any],
    steps: Mapping[str, str],
) -> Publication:
    return Publication(
        name=name,
        build=build,
        number=number,
        version=version_of(bundle),
        job=job,
        published=_time(clock),
        recipe=manifest["recipe"]["name"],
        family=manifest["family"],
        prediction_type=manifest["prediction_type"],
        sizes=manifest["sizes"],
        bytes=bundle.size_bytes,
        licence=manifest["licence"],
        source=manifest["source"],
        components={
            component: {key: facts[key] for key in _OF_COMPONENT}
            for component, facts in manifest["components"].items()
        },
        toolchain=manifest["toolchain"],
        steps=steps,
    )


_OF_COMPONENT = ("sha256", "bytes", "precision", "psnr_db", "toolchain")


def _time(clock: Clock) -> str:
    return datetime.fromtimestamp(clock.now_s(), UTC).isoformat(timespec="seconds")
