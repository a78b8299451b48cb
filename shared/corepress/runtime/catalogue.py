"""The catalogue: a fold over immutable entries, one per publication.

An entry's key holds its number, so that whoever creates the next one has won it: the versions of a
build have one order, that of their first publication, and publishing again changes nothing. All
else is derived from entries and may be overtaken by another writer: ``latest.json`` of a build,
and ``catalogue.json``. Whoever writes one of these looks at the entries again afterwards, and
writes anew if there are more: so the last to write has seen all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from pydantic import TypeAdapter

from corepress.domain.artifact import Artifact, canonical_json
from corepress.domain.errors import NameTaken
from corepress.domain.plan import publish_step
from corepress.domain.publication import (
    SCHEMA,
    Publication,
    build_prefix,
    is_same_source,
    version_of,
)
from corepress.ports.clock import Clock
from corepress.ports.store import DocumentNotFound, Store
from corepress.runtime import jobs, leases

PAGE = "catalogue.json"
_ENTRIES = "catalogue/entries/"
_LEASE = "catalogue"
_LEASE_S = 10.0
"""How long a dead writer of the page keeps others waiting."""
_LOOK_EVERY_S = 0.2
_ADAPTER: TypeAdapter[Publication] = TypeAdapter(Publication)


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
    """Enter a version whose files are in their place, and bring what is derived up to date.

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
        for entry in known:
            if entry.version == version:
                break
        else:
            number = known[-1].number + 1 if known else 1
            made_of = jobs.made_of(store, job, publish_step(build))
            entry = _entry(clock, job, name, build, number, bundle, manifest, made_of)
            if not store.create(_key(name, build, number), _ADAPTER.dump_json(entry)):
                continue  # another publisher was first
        break
    _point_at_latest(store, name, build)
    refresh(store, clock)
    return entry


def versions(store: Store, name: str, build: str) -> list[Publication]:
    """The published versions of a build, the first published first."""
    keys = store.keys(f"{_ENTRIES}{name}/{build}/")
    return [_ADAPTER.validate_json(store.get(key)) for key in keys]


def publications(store: Store) -> list[Publication]:
    """All publications by name, build and number; never fewer than there are."""
    page = _complete(store, _page(store))
    return [_ADAPTER.validate_python(page[key]) for key in sorted(page)]


def latest(found: list[Publication]) -> list[Publication]:
    """Of all publications the last of each build."""
    return list({(entry.name, entry.build): entry for entry in found}.values())


def refresh(store: Store, clock: Clock) -> None:
    """Have all entries in ``catalogue.json`` that are there now.

    One at a time writes it, who holds a lease and looks again after giving it back. Others wait,
    since the holder may be dead.
    """
    owner = token_hex(8)
    wanted, known = set(store.keys(_ENTRIES)), _page(store)
    while wanted - known.keys():
        lease = leases.claim(store, clock, _LEASE, owner, _LEASE_S)
        if lease is None:
            time.sleep(_LOOK_EVERY_S)
            continue
        with leases.held(store, clock, lease):
            if lease.deaths:
                leases.forget_deaths(store, lease)
            known = _page(store)
            if not wanted - known.keys():
                return  # it was written meanwhile
            known = _complete(store, known)
            store.put(PAGE, canonical_json({"schema": SCHEMA, "entries": known}))
        wanted = set(store.keys(_ENTRIES))


def _point_at_latest(store: Store, name: str, build: str) -> None:
    written = None
    while (last := versions(store, name, build)[-1]).number != written:
        document = {"version": last.version, "number": last.number, "path": last.path}
        store.put(f"{build_prefix(name, build)}latest.json", canonical_json(document))
        written = last.number


def _page(store: Store) -> dict[str, Any]:
    """The entries of ``catalogue.json`` by their keys: some of those that there are."""
    try:
        document = json.loads(store.get(PAGE))
    except DocumentNotFound:
        return {}
    return dict(document["entries"]) if document["schema"] == SCHEMA else {}


def _complete(store: Store, known: dict[str, Any]) -> dict[str, Any]:
    """All entries; what is known, being immutable, is not read again."""
    return {
        key: known[key] if key in known else json.loads(store.get(key))
        for key in store.keys(_ENTRIES)
    }


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
        published=datetime.fromtimestamp(clock.now_s(), UTC).isoformat(timespec="seconds"),
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


def _key(name: str, build: str, number: int) -> str:
    return f"{_ENTRIES}{name}/{build}/{number:08d}.json"
