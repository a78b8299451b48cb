"""Jobs in the store, and the join without a coordinator.

Whoever settles a node writes its step once, lists the steps, and publishes what has become ready.
Two who do so at the same moment publish the same message twice, which its action key makes
harmless. Needs only a strongly consistent store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from corepress.domain.artifact import canonical_json
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import (
    CorepressError,
    InvalidRequest,
    StoreUnavailable,
)
from corepress.domain.job import JobRequest
from corepress.domain.plan import (
    Node,
    build_nodes,
    is_opening,
    opening_nodes,
    ready,
    step_of,
)
from corepress.domain.stage import Outputs, Stage
from corepress.messages.events import JOB_ACCEPTED, JOB_FINISHED, Event
from corepress.messages.work import Work
from corepress.ports.bus import Bus
from corepress.ports.store import DocumentNotFound, Store
from corepress.runtime import job_index
from corepress.runtime.actions import action_of, load_outputs
from corepress.runtime.job_events import tell

_REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)
_BASE = step_of("normalize", CHECKPOINT)


@dataclass(frozen=True, slots=True)
class JobResult:
    """A finished job: the action of every published build, or the errors that stopped it."""

    builds: Mapping[str, str]
    errors: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of a job before it begins: its plan, and actions that did some of its steps."""

    plan: Sequence[Node]
    done: Mapping[str, str]


def submit(
    store: Store,
    bus: Bus,
    job: str,
    request: JobRequest,
    sources: Mapping[str, Mapping[str, Any]],
    prepared: Prepared | None = None,
) -> None:
    """Write the job down and send its first message.

    Args:
        job: a name of its own.
        request: what is asked for.
        sources: the resolved sources by role, see the fetch stage.
        prepared: where not all of the job is to be done.

    Raises:
        InvalidRequest: something in it is no JSON, such as a name that is no Unicode, or two of
            its models would have the same name; or there is another job of this name.
    """
    nodes = opening_nodes(request, sources)
    opening = _written([node.document() for node in nodes])
    write_request(store, job, request)
    if prepared is not None:
        _write_plan(store, job, prepared.plan)
        for node, action in prepared.done.items():
            store.create(document_key(job, f"steps/{node}"), canonical_json({"action": action}))
    if not is_open(store, job):  # once it is, nobody comes back to tell
        job_index.write(store, job_index.opened(job, 0, request, time.time()))
        told = {"name": request.name, "source": request.source, "tags": list(request.tags)}
        tell(store, bus, Event(JOB_ACCEPTED, job, time.time(), told, f"{job}.accepted"))
        store.create(document_key(job, "opening"), opening)
    publish_ready(store, bus, job, None, request.priority)


def settle_request(store: Store, job: str, request: JobRequest) -> JobRequest:
    """Write down what a job was asked for, unless something else was; returns what stands.

    Raises:
        InvalidRequest: see `submit`.
    """
    store.create(document_key(job, "request"), _written(_REQUEST.dump_python(request, mode="json")))
    return request_of(store, job)


def write_request(store: Store, job: str, request: JobRequest) -> None:
    """Write down what a job was asked for.

    Raises:
        InvalidRequest: see `submit`.
    """
    if settle_request(store, job, request) != request:
        raise InvalidRequest(
            f"there is another job called {job}", hint="choose another name for it", path="job"
        )


def _write_plan(store: Store, job: str, nodes: Sequence[Node]) -> bool:
    """Write a job's plan, unless it has one; whether this call wrote it."""
    plan = canonical_json([node.document() for node in nodes])
    return store.create(document_key(job, "plan"), plan)


def _written(document: Any) -> bytes:
    try:
        return canonical_json(document)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(
            f"the job cannot be written down: {error}",
            hint="give files names in UTF-8, and configurations what JSON has too",
        ) from error


def is_open(store: Store, job: str) -> bool:
    """Whether a job was written down."""
    try:
        store.get(document_key(job, "opening"))
    except DocumentNotFound:
        return False
    return True


def publish_opening(store: Store, bus: Bus, job: str) -> None:
    """Send those of a job's first messages of which nothing came yet.

    Whoever opened it may have died between any two of them.

    Raises:
        InvalidRequest: there is no such job.
    """
    if result(store, job) is None:
        settled = _settled(store, job)
        opening = [node for node in _nodes_in(store, job, "opening") if not node.needs]
        unsettled = [node for node in opening if node.id not in settled]
        _publish(bus, job, unsettled, {}, request_of(store, job).priority)


def done_before(
    store: Store,
    stages: Mapping[str, Stage],
    request: JobRequest,
    sources: Mapping[str, Mapping[str, Any]],
) -> set[str]:
    """The steps that such a job would find done, as far as that shows without doing any."""
    nodes = opening_nodes(request, sources)
    done: dict[str, Outputs] = {}
    missing: set[str] = set()
    while runnable := ready(nodes, done, missing).runnable:
        for node in runnable:
            outputs = load_outputs(store, action_of(stages[node.stage], node.task(done)).key)
            if outputs is None:
                missing.add(node.id)
                continue
            done[node.id] = outputs
            if node.id == _BASE:
                nodes += build_nodes(
                    request, {role: done[step].facts for role, step in normalizing(request)}
                )
    return set(done)


def complete(
    store: Store,
    bus: Bus,
    job: str,
    node_id: str,
    action: str,
    priority: int = 0,
    outputs: Outputs | None = None,
) -> None:
    """Record that a node is done and publish what follows.

    The base model is normalized last. With that the job's plan is written, before anything follows
    from it.

    Args:
        store: where the job is.
        bus: for what follows.
        job: its name.
        node_id: the node.
        action: the key of the committed action.
        priority: the job's.
        outputs: of that action, where they are at hand.

    Raises:
        InvalidRequest: there is no such job, or no such node in it.
        UnsupportedRecipe: the checkpoint, now that it is known, cannot give what the job asks for.
    """
    nodes = _nodes_beside(store, job, node_id)
    if all(node.id != node_id for node in nodes):
        raise InvalidRequest(f"job {job} has no step {node_id!r}")
    if outputs is None:
        outputs = outputs_of(store, action)
    if node_id == _BASE:
        nodes += _planned(store, job, outputs)
    is_first = _record(store, job, node_id, {"action": action})
    if is_first and not _go_on(store, bus, job, nodes, node_id, priority, outputs):
        return
    publish_ready(store, bus, job, node_id, priority, {action: outputs})


def _planned(store: Store, job: str, base: Outputs) -> list[Node]:
    """The nodes that follow from what normalize found, written down as the job's plan."""
    request = request_of(store, job)
    facts = {
        role: (base if step == _BASE else _made_by(store, job, step)).facts
        for role, step in normalizing(request)
    }
    nodes = build_nodes(request, facts)
    return nodes if _write_plan(store, job, nodes) else _nodes_in(store, job, "plan")


def _made_by(store: Store, job: str, node_id: str) -> Outputs:
    """What a node made that is done."""
    return outputs_of(store, _step(store, job, node_id)["action"])


def _go_on(
    store: Store,
    bus: Bus,
    job: str,
    nodes: Sequence[Node],
    node_id: str,
    priority: int,
    outputs: Outputs,
) -> bool:
    """Publish what a node, recorded as done for the first time just now, was all that it needed.

    What needs something that needs this node is known to wait. Only for the rest is looked what
    else is settled, and only what is needed is read.

    Returns:
        whether that may not be all: something can never run, or the job is over.
    """
    following = [node for node in nodes if node_id in node.needs]
    _publish(bus, job, [n for n in following if len(n.needs) == 1], {node_id: outputs}, priority)
    names = {node.id for node in following}
    open_ = [n for n in following if len(n.needs) > 1 and not n.needs & names]
    if following and not open_:
        return False
    settled = _settled(store, job)
    waiting = [node for node in open_ if node.id not in settled]
    whole = [node for node in waiting if node.needs <= settled]
    needed = {each for node in whole for each in node.needs} - {node_id}
    actions = {each: _step(store, job, each).get("action") for each in needed}
    if not waiting or None in actions.values():  # it may be the end, or something failed
        return True
    made = {each: outputs_of(store, action) for each, action in actions.items() if action}
    _publish(bus, job, whole, {node_id: outputs, **made}, priority)
    return False


def _publish(
    bus: Bus, job: str, nodes: Sequence[Node], outputs: Mapping[str, Outputs], priority: int
) -> None:
    """Send nodes to their stages, by the outputs of all that they need."""
    for node in nodes:
        work = Work(job, node.id, node.task(outputs), priority)
        bus.publish(node.stage, work.encode(), priority)


def fail(store: Store, bus: Bus, job: str, node_id: str, error: CorepressError) -> None:
    """Record that a node failed for good, and with it all that need it.

    Raises:
        InvalidRequest: there is no such job.
    """
    _record(store, job, node_id, {"error": error.document()})
    publish_ready(store, bus, job, node_id, 0)  # nothing follows


def result(store: Store, job: str) -> JobResult | None:
    """What became of the job, None while it is at work."""
    try:
        document = json.loads(store.get(document_key(job, "result")))
    except DocumentNotFound:
        return None
    return JobResult(document["builds"], document["errors"])


def steps(store: Store, job: str) -> dict[str, dict[str, Any]]:
    """The settled nodes: ``{"action": key}`` or ``{"error": document}`` by node id."""
    return {node: _step(store, job, node) for node in sorted(_settled(store, job))}


def _settled(store: Store, job: str) -> set[str]:
    """The ids of the settled nodes."""
    prefix = f"jobs/{job}/steps/"
    return {key.removeprefix(prefix).removesuffix(".json") for key in store.keys(prefix)}


def _step(store: Store, job: str, node_id: str) -> dict[str, Any]:
    step: dict[str, Any] = json.loads(store.get(document_key(job, f"steps/{node_id}")))
    return step


def _record(store: Store, job: str, node_id: str, step: Mapping[str, Any]) -> bool:
    """Write a node's step, unless an earlier delivery did; whether this call wrote it."""
    return store.create(document_key(job, f"steps/{node_id}"), canonical_json(step))


def made_of(store: Store, job: str, node_id: str) -> dict[str, str]:
    """The actions of all steps that a node needs, directly or not, by node id.

    Raises:
        InvalidRequest: there is no such job.
    """
    needs = {node.id: node.needs for node in nodes_of(store, job)}
    found: set[str] = set()
    pending = set(needs.get(node_id, ()))
    while pending:
        found |= pending
        pending = {each for node in pending for each in needs.get(node, ())} - found
    return {
        node: step["action"]
        for node, step in steps(store, job).items()
        if node in found and "action" in step
    }


def normalizing(request: JobRequest) -> list[tuple[str, str]]:
    """The roles of a job's checkpoints, and the nodes that normalize them."""
    return [(role, step_of("normalize", role)) for role in (CHECKPOINT, *request.attachments)]


def publish_ready(
    store: Store,
    bus: Bus,
    job: str,
    after: str | None,
    priority: int,
    known: Mapping[str, Outputs] = MappingProxyType({}),
) -> None:
    """Publish the nodes that ``after``, just settled, was the last thing missing for.

    Args:
        store: where the job is.
        bus: for what is published.
        job: its name.
        after: None for all nodes that can run, whoever else may be at it.
        priority: the job's.
        known: outputs by action, where they are at hand.
    """
    settled = steps(store, job)
    nodes = nodes_of(
        store, job
    )  # after the steps: whoever sees that of normalize sees its plan too
    while True:
        done = {node: step["action"] for node, step in settled.items() if "action" in step}
        failed = [node for node, step in settled.items() if "error" in step]
        state = ready(nodes, done, failed)
        if not state.doomed:
            break
        for node in state.doomed:
            cause = next(settled[needed] for needed in sorted(node.needs) if needed in failed)
            _record(store, job, node.id, cause)
            settled[node.id] = cause
    for node in state.runnable:
        if after is not None and after not in node.needs:
            continue
        outputs = {
            needed: known.get(done[needed]) or outputs_of(store, done[needed])
            for needed in node.needs
        }
        try:
            work = Work(job, node.id, node.task(outputs), priority)
        except CorepressError as error:
            fail(store, bus, job, node.id, error)
            continue
        bus.publish(node.stage, work.encode(), priority)
    if all(node.id in settled for node in nodes):
        finish(store, bus, job, _result(nodes, settled))


def _result(nodes: Sequence[Node], settled: Mapping[str, Mapping[str, Any]]) -> JobResult:
    return JobResult(
        builds={
            node.id.removeprefix("publish-"): settled[node.id]["action"]
            for node in nodes
            if node.stage == "publish" and "action" in settled[node.id]
        },
        errors={
            node.id: settled[node.id]["error"]
            for node in nodes
            if "error" in settled[node.id]
            and not any("error" in settled[needed] for needed in node.needs)
        },
    )


def finish(store: Store, bus: Bus, job: str, outcome: JobResult) -> None:
    """Write down what became of a job, unless that was done, and tell it.

    Whoever did it before may have died half-way, so all but the first step is done again.
    """
    store.create(document_key(job, "result"), canonical_json(asdict(outcome)))
    generation, request = generation_of(store, job), request_of(store, job)
    entry = job_index.ended(job, generation, request, outcome.errors, time.time())
    job_index.write(store, entry)
    told = {"state": entry.state, "builds": sorted(outcome.builds), "errors": outcome.errors}
    number = f"{job}.{generation}.finished"
    tell(store, bus, Event(JOB_FINISHED, job, time.time(), told, number))


def reopen(store: Store, job: str) -> None:
    """Forget what became of a job, and that it was cancelled."""
    generation = generation_of(store, job) + 1
    store.put(document_key(job, f"generations/{generation:04d}"), b"{}")
    store.delete(document_key(job, "cancelled"))
    store.delete(document_key(job, "result"))
    entry = job_index.opened(job, generation, request_of(store, job), time.time())
    job_index.write(store, entry)


def generation_of(store: Store, job: str) -> int:
    """How often a job was opened again."""
    return sum(1 for _ in store.keys(f"jobs/{job}/generations/"))


def _nodes_beside(store: Store, job: str, node_id: str) -> list[Node]:
    """The nodes in the document that a node is in: of the job's opening, or of its plan.

    Raises:
        InvalidRequest: there is none yet.
    """
    try:
        return _nodes_in(store, job, "opening" if is_opening(node_id) else "plan")
    except DocumentNotFound:
        raise InvalidRequest(f"job {job} has no step {node_id!r}") from None


def nodes_of(store: Store, job: str) -> list[Node]:
    """The nodes of a job that are known by now.

    Raises:
        InvalidRequest: there is no such job.
    """
    try:
        nodes = _nodes_in(store, job, "opening")
    except DocumentNotFound:
        raise _no_such_job(job) from None
    with suppress(DocumentNotFound):  # not normalized yet, or never will be
        nodes += _nodes_in(store, job, "plan")
    return nodes


def _nodes_in(store: Store, job: str, what: str) -> list[Node]:
    documents = json.loads(store.get(document_key(job, what)))
    return [Node.from_document(document) for document in documents]


def sources_of(store: Store, job: str) -> dict[str, Mapping[str, Any]]:
    """A job's resolved sources by role, as they were submitted.

    Raises:
        InvalidRequest: there is no such job.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for node in nodes_of(store, job):
        if node.stage == "fetch":
            role = node.id.removeprefix("fetch").removeprefix("-") or CHECKPOINT
            sources = {key: of for key, of in node.parameters.items() if key != "options"}
            found |= sources if role == CHECKPOINT else {role: sources[CHECKPOINT]}
    return found


def request_of(store: Store, job: str) -> JobRequest:
    """What a job was asked for.

    Raises:
        InvalidRequest: there is no such job.
    """
    try:
        return _REQUEST.validate_json(store.get(document_key(job, "request")))
    except DocumentNotFound:
        raise _no_such_job(job) from None


def _no_such_job(job: str) -> InvalidRequest:
    return InvalidRequest(
        f"there is no job {job!r}", hint="`corepress status` lists the jobs", path="job"
    )


def outputs_of(store: Store, action: str) -> Outputs:
    """What a committed action made.

    Raises:
        StoreUnavailable: the store no longer has all of it.
    """
    outputs = load_outputs(store, action)
    if outputs is None:
        raise StoreUnavailable(
            f"the store no longer has what action {action} made, which this job is built on",
            hint="start the job again: what is missing is made anew",
        )
    return outputs


def letter_key(job: str, node_id: str) -> str:
    """The key of what tells that a node which failed has its dead letter."""
    return document_key(job, f"letters/{node_id}")


def document_key(job: str, what: str) -> str:
    """The key of one of a job's documents."""
    return f"jobs/{job}/{what}.json"
