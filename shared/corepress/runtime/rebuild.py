"""Converting one component again, across what is published.

A rebuild is a job whose other steps are done from the start, by the actions that the published
version was made of, whatever versions of tools made those. What is left to do is to convert the
component, with the tools of today, and to publish. Where tools are the same as then, the conversion
is found done and the published version is the same: nothing comes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from corepress.domain.artifact import canonical_json, sha256_digest
from corepress.domain.bundle import component_of
from corepress.domain.errors import InvalidRequest
from corepress.domain.plan import Node, build_nodes, publish_step
from corepress.domain.publication import Publication
from corepress.domain.recipe import ComponentName
from corepress.ports.bus import Bus
from corepress.ports.store import Store
from corepress.runtime import jobs
from corepress.runtime.actions import load_outputs
from corepress.runtime.condition import Condition, Facts, Known

_TEXTS = frozenset(
    {"name", "build", "recipe", "family", "prediction_type", "version", "source", "precision"}
)
_NUMBERS = frozenset({"bytes", "conversion_db"})
_ID_DIGITS = 12


def known_facts(publications: Iterable[Publication]) -> Known:
    """What a condition on these may name: with the tools that made any of them."""
    components = (each for entry in publications for each in entry.components.values())
    tools = {tool for component in components for tool in component["toolchain"]}
    return Known(_TEXTS, _NUMBERS, tools)


def selected(
    publications: Iterable[Publication], component: ComponentName, condition: Condition
) -> list[Publication]:
    """The publications with a model of this kind for which the condition holds."""
    return [
        entry
        for entry in publications
        if any(
            condition(_facts(entry, facts))
            for name, facts in entry.components.items()
            if component_of(name) == component
        )
    ]


def _facts(entry: Publication, component: Mapping[str, Any]) -> Facts:
    figures_db = [db for each in component["psnr_db"].values() if (db := each["conversion"])]
    return {
        **component["toolchain"],
        **{name: getattr(entry, name) for name in _TEXTS - {"source", "precision"}},
        **({"conversion_db": min(figures_db)} if figures_db else {}),
        "source": entry.source["uri"],
        "precision": component["precision"],
        "bytes": component["bytes"],
    }


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Builds that one job published, to be published anew by one job.

    Attributes:
        entries: their latest publications.
        job: what it is called.
        error: why there is none, as a document.
    """

    entries: Sequence[Publication]
    job: str | None = None
    error: Mapping[str, Any] | None = None


def rebuild_selected(
    store: Store,
    bus: Bus,
    component: ComponentName,
    entries: Sequence[Publication],
    force: bool = False,
) -> list[Rebuild]:
    """Submit jobs that convert a component of these publications again.

    Called again while these are at work, it finds the same jobs.

    Args:
        store: where things are published.
        bus: takes the jobs' first messages.
        component: which kind of model.
        entries: the latest publications of some builds.
        force: convert also where the same tools have done so before.
    """
    by_job: dict[str, list[Publication]] = {}
    for entry in entries:
        by_job.setdefault(entry.job, []).append(entry)
    done = []
    for job, its_entries in by_job.items():
        try:
            name = _submit(store, bus, component, job, its_entries, force)
        except InvalidRequest as error:
            done.append(Rebuild(its_entries, error=error.document()))
        else:
            done.append(Rebuild(its_entries, job=name))
    return done


def _submit(
    store: Store,
    bus: Bus,
    component: ComponentName,
    origin: str,
    entries: Sequence[Publication],
    force: bool,
) -> str:
    try:
        request = jobs.request_of(store, origin)
    except InvalidRequest:
        raise InvalidRequest(
            f"what the job {origin} was asked for is not in the store",
            hint=f"submit the source of {entries[0].name} again",
        ) from None
    name = _job_name(store, component, origin, entries)
    steps = {node: action for entry in entries for node, action in entry.steps.items()}
    outputs = {step: load_outputs(store, action) for step, action in steps.items()}
    facts = {}
    for role, step in jobs.normalizing(request):
        found = outputs.get(step)
        if found is None:
            raise InvalidRequest(
                f"the store no longer has the normalized weights that job {origin} was made of",
                hint=f"submit the source of {entries[0].name} again",
            )
        facts[role] = found.facts
    again = {"again": name} if force else {}
    plan, to_do = _plan(
        build_nodes(request, facts),
        [publish_step(entry.build) for entry in entries],
        component,
        again,
    )
    kept = {step: steps[step] for step, found in outputs.items() if found and step not in to_do}
    prepared = jobs.Prepared(plan, kept)
    jobs.submit(store, bus, name, request, jobs.sources_of(store, origin), prepared)
    return name


def _plan(
    nodes: Sequence[Node],
    publishing: Iterable[str],
    component: ComponentName,
    again: Mapping[str, str],
) -> tuple[list[Node], set[str]]:
    """What the builds need, and of that the steps that are to be done anew."""
    needs = {node.id: node.needs for node in nodes}
    wanted = set(publishing)
    while more := {each for step in wanted for each in needs.get(step, ())} - wanted:
        wanted |= more
    chosen = {
        node.id
        for node in nodes
        if node.stage == "convert"
        and node.id in wanted
        and node.parameters["component"] == component
    }
    plan = [
        replace(node, parameters={**node.parameters, **again}) if node.id in chosen else node
        for node in nodes
        if node.id in wanted
    ]
    to_do = set(chosen)
    while more := {node.id for node in plan if node.needs & to_do} - to_do:
        to_do |= more
    return plan, to_do


def _job_name(
    store: Store, component: ComponentName, origin: str, entries: Sequence[Publication]
) -> str:
    """The name of the job that does this: of the first of its kind that is not over."""
    what = canonical_json([origin, component, sorted(entry.path for entry in entries)])
    digest = sha256_digest(what).removeprefix("sha256:")[:_ID_DIGITS]
    names = (f"{entries[0].name}-{digest}-rebuild-{number}" for number in count(1))
    return next(name for name in names if jobs.result(store, name) is None)
