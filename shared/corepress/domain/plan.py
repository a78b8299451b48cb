"""A job's plan: its nodes, what each needs, and what becomes ready when one is done.

A node is logical (component x size x recipe); which action it turns into is known only when its
inputs are. The plan is a pure function of the request and of what normalize found, so that
whoever computes it gets the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from corepress.domain.artifact import canonical_json, sha256_digest
from corepress.domain.attachments import refuse_misfit
from corepress.domain.bundle import CHUNK_NUMBERS, attached_controlnet, chunk_of
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import (
    CorepressError,
    InternalError,
    InvalidRequest,
    MissingConfig,
    UnsupportedRecipe,
)
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.recipe import (
    DENOISERS,
    PRECISIONS,
    SIZED,
    SOURCE_COMPONENT,
    UNETS,
    VAES,
    ComponentName,
    Recipe,
    gives_epsilon,
)
from corepress.domain.selection import Facts, Model, models, refuse_unsuitable_sizes
from corepress.domain.stage import Outputs, Task

_NOT_FOR_FETCH = frozenset({"allow_non_finite", "clip_skip", "max_shard_size"})
"""Options that say how weights are written and used: whatever they are, the same is fetched."""
_SCHEDULER = "scheduler"
_OPTIONAL = frozenset({"tokenizer", "tokenizer_2"})
"""Artifacts that not every source gives; whoever takes them does without."""
_TEXT: frozenset[ComponentName] = frozenset({"text_encoder", "text_encoder_2"})


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a job.

    ``inputs`` names, for each input of the task, a node and one of its artifacts; ``facts`` names
    the nodes whose facts the task gets, by label; ``after`` those that it only waits for.
    """

    id: str
    stage: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """The nodes that must be done before this one can run."""
        return frozenset(
            {*(node for node, _ in self.inputs.values()), *self.facts.values(), *self.after}
        )

    def document(self) -> dict[str, Any]:
        """The node as JSON."""
        return asdict(self)

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Node:
        """The inverse of `document`."""
        inputs = {name: (node, artifact) for name, (node, artifact) in document["inputs"].items()}
        return Node(**{**document, "inputs": inputs, "after": tuple(document["after"])})

    def task(self, done: Mapping[str, Outputs]) -> Task:
        """The task of this node.

        Args:
            done: the outputs of the nodes that it needs, by node id.

        Raises:
            MissingConfig: the source brings no scheduler, and one is needed.
            InternalError: one of them did not make what this one needs.
        """
        parameters = dict(self.parameters)
        if self.facts:
            parameters["facts"] = {label: done[node].facts for label, node in self.facts.items()}
        inputs = {}
        for name, (node, artifact) in self.inputs.items():
            found = done[node].artifacts.get(artifact)
            if found is not None:
                inputs[name] = found
            elif artifact not in _OPTIONAL:
                raise _missing(node, artifact, self.id)
        return Task(self.stage, parameters, inputs)


def _missing(node: str, artifact: str, needed_by: str) -> CorepressError:
    if artifact == _SCHEDULER:
        return MissingConfig(
            "the source brings no scheduler, by whose noise schedule a prediction of v becomes one "
            "of epsilon",
            hint="leave the recipe's prediction_type out, or give a folder with "
            "scheduler/scheduler_config.json",
            path=_SCHEDULER,
        )
    return InternalError(f"{node} made no {artifact!r}, which {needed_by} needs")


def step_of(stage: str, role: str) -> str:
    """The id of the node in which a checkpoint goes through fetch or normalize."""
    return stage if role == CHECKPOINT else f"{stage}-{role}"


def is_opening(node: str) -> bool:
    """Whether a node, by its id, is one of `opening_nodes`."""
    return node.partition("-")[0] in ("fetch", "normalize")


def publish_step(build: str) -> str:
    """The id of the node that publishes a build."""
    return f"publish-{build}"


def opening_nodes(request: JobRequest, sources: Mapping[str, Mapping[str, Any]]) -> list[Node]:
    """The nodes known before the checkpoints are: fetch, then normalize, of each.

    The base model is normalized last: when it is, all is known that `build_nodes` needs.

    Args:
        request: the job.
        sources: the resolved sources by role: what identifies their content at this moment.

    Raises:
        InvalidRequest: two ControlNets would have the same name.
    """
    _refuse_equal_names(request)
    own = {role: source for role, source in sources.items() if role not in request.attachments}
    base = request.options
    nodes = [
        node
        for role, uri in request.attachments.items()
        for node in _opening(role, uri, base.for_attachments, {CHECKPOINT: sources[role]}, ())
    ]
    after = tuple(node.id for node in nodes if node.stage == "normalize")
    return [*_opening(CHECKPOINT, request.source, base, own, after), *nodes]


def _opening(
    role: str,
    uri: str,
    options: CheckpointOptions,
    sources: Mapping[str, Mapping[str, Any]],
    after: tuple[str, ...],
) -> tuple[Node, Node]:
    document = options.document()
    parameters: dict[str, Any] = {"source": {"uri": uri}, "options": document}
    if options.lora:
        parameters["lora_scales"] = list(options.lora_scales)
    fetched = {name: value for name, value in document.items() if name not in _NOT_FOR_FETCH}
    fetch = Node(step_of("fetch", role), "fetch", {**sources, "options": fetched})
    normalize = Node(
        step_of("normalize", role),
        "normalize",
        parameters,
        inputs={name: (fetch.id, name) for name in ("index", "tokenizer", *sources)},
        facts={"fetch": fetch.id},
        after=after,
    )
    return fetch, normalize


def _refuse_equal_names(request: JobRequest) -> None:
    names = [attached_controlnet(uri) for uri in request.controlnets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(
            f"two ControlNets would be called {', '.join(twice)}", hint="give files other names"
        )


def build_nodes(request: JobRequest, facts: Facts) -> list[Node]:
    """The nodes that follow from what normalize found: convert, compile, publish.

    Args:
        request: the job.
        facts: of the normalize stage, for the checkpoint and what is attached to it.

    Raises:
        UnsupportedRecipe: a recipe asks for what this checkpoint cannot give.
        IncompatibleControlNet, IncompatibleRefiner: see `refuse_misfit`.
    """
    base = facts[CHECKPOINT]
    for role, attached in facts.items():
        if role != CHECKPOINT:
            refuse_misfit(role, attached, base)
    nodes: dict[str, Node] = {}
    for recipe in request.recipes:
        chosen = models(request, recipe, facts)
        refuse_unsuitable_sizes(recipe, chosen, facts)
        native = base["native_size"]
        for build, stated in recipe.build_names().items():
            size = stated or (tuple(native) if native else None)
            converts: dict[Model, Node] = {}
            for model in chosen:
                node = _convert_node(recipe, model, size, facts, request)
                nodes[node.id] = converts[model] = node
                if request.compile == "required":
                    nodes |= {each.id: each for each in _compile_nodes(node)}
            publish = _publish_node(request, recipe, build, size, converts)
            if publish.id in nodes:
                raise UnsupportedRecipe(
                    f"two builds would be called {build!r}", hint="give recipes other names"
                )
            nodes[publish.id] = publish
    return list(nodes.values())


def _convert_node(
    recipe: Recipe,
    model: Model,
    size: tuple[int, int] | None,
    facts: Facts,
    request: JobRequest,
) -> Node:
    component, own = model.component, facts[model.role]
    source = SOURCE_COMPONENT[component]
    overflows = bool(own["components"][source].get("overflows_float16", False))
    precision = recipe.precision_of(component, overflows)
    parameters: dict[str, Any] = {
        "component": component,
        "family": own["family"],
        "precision": precision,
        "deployment_target": recipe.deployment_target,
    }
    name = component if model.role == CHECKPOINT else model.role
    if component in SIZED:
        assert size is not None, "what has a size has a native one"
        name += f"-{size[0]}x{size[1]}"
        parameters |= {
            "size": list(size),
            "vae_scale_factor": facts[CHECKPOINT]["vae_scale_factor"],
        }
    if component in DENOISERS:
        parameters |= {"batch": recipe.batch, "attention": recipe.attention}
    inputs = {"component": (step_of("normalize", model.role), source)}
    if component in UNETS:
        if own["components"][source].get("guidance_embedding"):
            parameters["guidance_scale"] = recipe.guidance_scale
        if gives_epsilon(recipe.prediction_type, own["prediction_type"]):
            parameters["epsilon_output"] = True
            inputs[_SCHEDULER] = (step_of("normalize", model.role), _SCHEDULER)
    if component in VAES and precision == "float16":
        stated = recipe.stated_precision(component)
        parameters["on_overflow"] = "float32" if stated == "auto" else "refuse"
    if component in _TEXT:
        parameters["clip_skip"] = request.options.clip_skip
    if component in recipe.compression:
        parameters["compression"] = recipe.compression[component].document()
    if component in UNETS and recipe.chunks > 1:
        parameters["chunks"] = recipe.chunks
    short = sha256_digest(canonical_json(parameters)).removeprefix("sha256:")[:8]
    return Node(
        id=f"convert-{name}-{short}",
        stage="convert",
        parameters=parameters,
        inputs=inputs,
        # not planned before; a node is published when the last that it needs is done
        after=("normalize",) if model.role != CHECKPOINT else (),
    )


def _compile_nodes(convert: Node) -> list[Node]:
    return [
        Node(
            id=_compiled_id(convert, package),
            stage="compile",
            parameters={"deployment_target": convert.parameters["deployment_target"]},
            inputs={"package": (convert.id, package)},
        )
        for package in _packages("", convert).values()
    ]


def _compiled_id(convert: Node, package: str) -> str:
    chunk = "" if package == "package" else f"-{package}"
    return convert.id.replace("convert-", "compile-", 1) + chunk


def _packages(name: str, convert: Node) -> dict[str, str]:
    """The packages that a convert step makes: its artifacts, by their names in a manifest.

    Args:
        name: of the model.
        convert: the step.
    """
    if convert.parameters.get("chunks", 1) == 1:
        return {name: "package"}
    return {chunk_of(name, number): f"chunk{number}" for number in CHUNK_NUMBERS}


def _publish_node(
    request: JobRequest,
    recipe: Recipe,
    build: str,
    size: tuple[int, int] | None,
    converts: Mapping[Model, Node],
) -> Node:
    compiled = request.compile == "required"
    published = {
        f"model/{name}": (
            (_compiled_id(node, package), "compiled") if compiled else (node.id, package)
        )
        for model, node in converts.items()
        for name, package in _packages(model.name, node).items()
    }
    attached = {model.name: model.role for model in converts if model.role != CHECKPOINT}
    tokenizers = {name: ("normalize", name) for name in ("tokenizer", "tokenizer_2")}
    return Node(
        id=publish_step(build),
        stage="publish",
        parameters={
            "name": request.name,
            "size": list(size) if size else None,
            "recipe": asdict(recipe),
            "min_psnr_db": {each: recipe.threshold_db(each) for each in PRECISIONS},
            "clip_skip": request.options.clip_skip,
            "further_sources": {**request.options.further_sources, **request.attachments},
            "attachments": attached,
        },
        inputs={**published, **tokenizers},
        facts={step: step for step in ("normalize", *_normalized(attached))}
        | {model.name: node.id for model, node in converts.items()},
    )


def _normalized(attached: Mapping[str, str]) -> list[str]:
    return [step_of("normalize", role) for role in attached.values()]


@dataclass(frozen=True, slots=True)
class Ready:
    """What the plan says after some steps: nodes to publish, and nodes that can never run."""

    runnable: tuple[Node, ...]
    doomed: tuple[Node, ...]


def ready(nodes: Iterable[Node], done: Iterable[str], failed: Iterable[str]) -> Ready:
    """The nodes, not yet settled, that have all they need, and those that need a failed one."""
    finished, broken = frozenset(done), frozenset(failed)
    unsettled = [n for n in nodes if n.id not in finished and n.id not in broken]
    return Ready(
        runnable=tuple(n for n in unsettled if n.needs <= finished),
        doomed=tuple(n for n in unsettled if n.needs & broken),
    )
