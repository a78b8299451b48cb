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
from corepress.domain.bundle import CHUNK_NUMBERS, chunk_of
from corepress.domain.errors import UnsupportedRecipe
from corepress.domain.job import JobRequest
from corepress.domain.recipe import (
    BY_REQUEST,
    CHUNKED,
    COMPONENTS,
    DENOISERS,
    SIZED,
    SOURCE_COMPONENT,
    ComponentName,
    Recipe,
)
from corepress.domain.stage import Outputs, Task

_NOT_FOR_FETCH = frozenset({"allow_non_finite", "clip_skip", "max_shard_size"})
"""Options that say how weights are written and used: whatever they are, the same is fetched."""
_TEXT: frozenset[ComponentName] = frozenset({"text_encoder", "text_encoder_2"})
_NOT_YET = "transformer"
"""A component whose family cannot be converted."""


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a job.

    ``inputs`` names, for each input of the task, a node and one of its artifacts; ``facts`` names
    the nodes whose facts the task gets, by label.
    """

    id: str
    stage: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        """The nodes that must be done before this one can run."""
        return frozenset(node for node, _ in self.inputs.values()) | frozenset(self.facts.values())

    def document(self) -> dict[str, Any]:
        """The node as JSON."""
        return asdict(self)

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Node:
        """The inverse of `document`."""
        inputs = {name: (node, artifact) for name, (node, artifact) in document["inputs"].items()}
        return Node(**{**document, "inputs": inputs})

    def task(self, done: Mapping[str, Outputs]) -> Task:
        """The task of this node.

        Args:
            done: the outputs of the nodes that it needs, by node id.
        """
        parameters = dict(self.parameters)
        if self.facts:
            parameters["facts"] = {label: done[node].facts for label, node in self.facts.items()}
        inputs = {
            name: done[node].artifacts[artifact]
            for name, (node, artifact) in self.inputs.items()
            if artifact in done[node].artifacts
        }
        return Task(self.stage, parameters, inputs)


def opening_nodes(request: JobRequest, sources: Mapping[str, Mapping[str, Any]]) -> list[Node]:
    """The nodes known before the checkpoint is: fetch, then normalize.

    Args:
        request: the job.
        sources: the resolved sources by role: what identifies their content at this moment.
    """
    options = request.options.document()
    parameters: dict[str, Any] = {"source": {"uri": request.source}, "options": options}
    if request.options.lora:
        parameters["lora_scales"] = list(request.options.lora_scales)
    fetched = {name: value for name, value in options.items() if name not in _NOT_FOR_FETCH}
    names = ("index", "tokenizer", *sources)
    return [
        Node("fetch", "fetch", {**sources, "options": fetched}),
        Node(
            "normalize",
            "normalize",
            parameters,
            inputs={name: ("fetch", name) for name in names},
            facts={"fetch": "fetch"},
        ),
    ]


def build_nodes(request: JobRequest, normalized: Mapping[str, Any]) -> list[Node]:
    """The nodes that follow from what normalize found: convert, compile, publish.

    Args:
        request: the job.
        normalized: the facts of the normalize stage.

    Raises:
        UnsupportedRecipe: a recipe asks for what this checkpoint cannot give.
    """
    nodes: dict[str, Node] = {}
    for recipe in request.recipes:
        _refuse_unsuitable_sizes(recipe, normalized)
        native = normalized["native_size"]
        for build, stated in recipe.build_names().items():
            size = stated or (tuple(native) if native else None)
            converts: dict[ComponentName, Node] = {}
            for component in _components(recipe, normalized):
                node = _convert_node(recipe, component, size, normalized, request)
                nodes[node.id] = converts[component] = node
                if request.compile == "required":
                    nodes |= {each.id: each for each in _compile_nodes(node)}
            publish = _publish_node(request, recipe, build, size, converts)
            if publish.id in nodes:
                raise UnsupportedRecipe(
                    f"two builds would be called {build!r}", hint="give recipes other names"
                )
            nodes[publish.id] = publish
    return list(nodes.values())


def _components(recipe: Recipe, facts: Mapping[str, Any]) -> list[ComponentName]:
    if _NOT_YET in facts["components"]:
        raise UnsupportedRecipe(
            f"a checkpoint of family {facts['family']} cannot be converted yet",
            hint="`corepress normalize` makes a diffusers folder of it",
        )
    available = [c for c in COMPONENTS if SOURCE_COMPONENT.get(c) in facts["components"]]
    if recipe.components == "default":
        chosen = [c for c in available if c not in BY_REQUEST]
    else:
        missing = [c for c in recipe.components if c not in available]
        if missing:
            raise UnsupportedRecipe(
                f"recipe {recipe.name!r} asks for {', '.join(missing)}, "
                f"but this checkpoint has {', '.join(available) or 'none that can be converted'}",
                hint="remove it from `components` in the recipe",
            )
        chosen = [c for c in COMPONENTS if c in recipe.components]
    if not chosen:
        raise UnsupportedRecipe(
            f"a checkpoint of family {facts['family']} has no component that can be converted yet",
            hint="`corepress normalize` still makes a diffusers folder of it",
        )
    return chosen


def _refuse_unsuitable_sizes(recipe: Recipe, facts: Mapping[str, Any]) -> None:
    if recipe.sizes == "native":
        return
    for component in _components(recipe, facts):
        if component not in SIZED:
            continue
        step = int(facts["vae_scale_factor"])
        if component in DENOISERS:
            step *= int(facts["unet_divisor"])
        for width, height in recipe.sizes:
            if width <= 0 or height <= 0 or width % step or height % step:
                raise UnsupportedRecipe(
                    f"recipe {recipe.name!r}: size {width}x{height} does not suit {component}: "
                    f"both sides must be positive multiples of {step} pixels",
                    hint=f"use {_round(width, step)}x{_round(height, step)}",
                )


def _round(pixels: int, step: int) -> int:
    return max(step, (pixels + step // 2) // step * step)


def _convert_node(
    recipe: Recipe,
    component: ComponentName,
    size: tuple[int, int] | None,
    facts: Mapping[str, Any],
    request: JobRequest,
) -> Node:
    source = SOURCE_COMPONENT[component]
    overflows = bool(facts["components"][source].get("overflows_float16", False))
    precision = recipe.precision_of(component, overflows)
    parameters: dict[str, Any] = {
        "component": component,
        "family": facts["family"],
        "precision": precision,
        "deployment_target": recipe.deployment_target,
    }
    name = str(component)
    if component in SIZED:
        assert size is not None, "what has a size has a native one"
        name += f"-{size[0]}x{size[1]}"
        parameters |= {"size": list(size), "vae_scale_factor": facts["vae_scale_factor"]}
    if component in DENOISERS:
        parameters |= {"batch": recipe.batch, "attention": recipe.attention}
    if component in _TEXT:
        parameters["clip_skip"] = request.options.clip_skip
    if component in recipe.compression:
        parameters["compression"] = recipe.compression[component].document()
    if component in CHUNKED and recipe.chunks > 1:
        parameters["chunks"] = recipe.chunks
    short = sha256_digest(canonical_json(parameters)).removeprefix("sha256:")[:8]
    return Node(
        id=f"convert-{name}-{short}",
        stage="convert",
        parameters=parameters,
        inputs={"component": ("normalize", source)},
    )


def _compile_nodes(convert: Node) -> list[Node]:
    return [
        Node(
            id=_compiled_id(convert, package),
            stage="compile",
            parameters={"deployment_target": convert.parameters["deployment_target"]},
            inputs={"package": (convert.id, package)},
        )
        for package in _packages(convert).values()
    ]


def _compiled_id(convert: Node, package: str) -> str:
    chunk = "" if package == "package" else f"-{package}"
    return convert.id.replace("convert-", "compile-", 1) + chunk


def _packages(convert: Node) -> dict[str, str]:
    """The packages that a convert step makes: its artifacts, by their names in a bundle."""
    component = convert.parameters["component"]
    if convert.parameters.get("chunks", 1) == 1:
        return {component: "package"}
    return {chunk_of(component, number): f"chunk{number}" for number in CHUNK_NUMBERS}


def _publish_node(
    request: JobRequest,
    recipe: Recipe,
    build: str,
    size: tuple[int, int] | None,
    converts: Mapping[ComponentName, Node],
) -> Node:
    compiled = request.compile == "required"
    models = {
        f"model/{name}": (
            (_compiled_id(node, package), "compiled") if compiled else (node.id, package)
        )
        for node in converts.values()
        for name, package in _packages(node).items()
    }
    tokenizers = {name: ("normalize", name) for name in ("tokenizer", "tokenizer_2")}
    return Node(
        id=f"publish-{build}",
        stage="publish",
        parameters={
            "name": request.name,
            "size": list(size) if size else None,
            "recipe": asdict(recipe),
            "min_psnr_db": {
                component: recipe.threshold_db(node.parameters["precision"])
                for component, node in converts.items()
            },
            "clip_skip": request.options.clip_skip,
            "further_sources": request.options.further_sources,
        },
        inputs={**models, **tokenizers},
        facts={"normalize": "normalize"} | {c: node.id for c, node in converts.items()},
    )


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
