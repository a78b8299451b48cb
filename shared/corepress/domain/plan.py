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
from corepress.domain.errors import UnsupportedRecipe, VerificationFailed
from corepress.domain.job import JobRequest
from corepress.domain.recipe import COMPONENTS, SOURCE_COMPONENT, ComponentName, Recipe
from corepress.domain.stage import Outputs, Task

_SIZED: frozenset[ComponentName] = frozenset({"unet", "vae_decoder", "vae_encoder"})
_TEXT: frozenset[ComponentName] = frozenset({"text_encoder", "text_encoder_2"})
_NOT_YET = "transformer"
"""A component whose family cannot be converted."""


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a job.

    ``inputs`` names, for each input of the task, a node and one of its artifacts; ``facts`` names
    the nodes whose facts the task gets, by label. ``min_psnr_db`` is what the outcome is held to
    (no part of the task: a threshold does not change the work).
    """

    id: str
    stage: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    min_psnr_db: float | None = None

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

    def refuse_below_threshold(self, outputs: Outputs) -> None:
        """Hold the outcome to the recipe's threshold.

        Raises:
            VerificationFailed: an output's conversion figure is below it.
        """
        if self.min_psnr_db is None:
            return
        for output, figures in outputs.facts["psnr_db"].items():
            reached = figures["conversion"]
            if reached is not None and reached < self.min_psnr_db:
                raise VerificationFailed(
                    f"{self.id}: output {output!r} agrees with the checkpoint to {reached} dB, "
                    f"the recipe asks for {self.min_psnr_db} dB",
                    hint="convert in float32, or lower min_psnr_db in the recipe if you accept it",
                )


def opening_nodes(request: JobRequest, source: Mapping[str, Any]) -> list[Node]:
    """The nodes known before the checkpoint is: fetch, then normalize.

    Args:
        request: the job.
        source: the resolved source: what identifies its content at this moment.
    """
    options = request.options.document()
    return [
        Node("fetch", "fetch", {"source": source, "options": options}),
        Node(
            "normalize",
            "normalize",
            {"source": {"uri": request.source}, "options": options},
            inputs={name: ("fetch", name) for name in ("source", "index", "tokenizer")},
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
        sizes = _sizes(recipe, normalized)
        for size in sizes:
            converts: dict[str, str] = {}
            for component in _components(recipe, normalized):
                node = _convert_node(recipe, component, size, normalized, request)
                nodes.setdefault(node.id, node)
                converts[component] = node.id
                if request.compile == "required":
                    compiled = _compile_node(node)
                    nodes.setdefault(compiled.id, compiled)
            build = recipe.name if len(sizes) == 1 else f"{recipe.name}-{size[0]}x{size[1]}"
            publish = _publish_node(request, recipe, build, size, converts)
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
        chosen = available
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


def _sizes(recipe: Recipe, facts: Mapping[str, Any]) -> list[tuple[int, int]]:
    if recipe.sizes == "native":
        if facts["native_size"] is None:
            raise UnsupportedRecipe(
                f"recipe {recipe.name!r} asks for the native size, "
                f"which the parts of a {facts['family']} don't tell",
                hint="give `sizes` in a recipe of your own",
            )
        return [tuple(facts["native_size"])]
    factor = int(facts["vae_scale_factor"] or 1)
    divisor = int(facts["unet_divisor"] or 1)
    steps = {c: factor if c != "unet" else factor * divisor for c in _SIZED}
    for component in _components(recipe, facts):
        step = steps.get(component)
        for width, height in recipe.sizes:
            if step and (width <= 0 or height <= 0 or width % step or height % step):
                raise UnsupportedRecipe(
                    f"recipe {recipe.name!r}: size {width}x{height} does not suit {component}: "
                    f"both sides must be positive multiples of {step} pixels",
                    hint=f"use {_round(width, step)}x{_round(height, step)}",
                )
    return [(width, height) for width, height in recipe.sizes]


def _round(pixels: int, step: int) -> int:
    return max(step, (pixels + step // 2) // step * step)


def _convert_node(
    recipe: Recipe,
    component: ComponentName,
    size: tuple[int, int],
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
    if component in _SIZED:
        parameters |= {"size": list(size), "vae_scale_factor": facts["vae_scale_factor"]}
    if component == "unet":
        parameters |= {"batch": recipe.batch, "attention": recipe.attention}
    if component in _TEXT:
        parameters["clip_skip"] = request.options.clip_skip
    short = sha256_digest(canonical_json(parameters)).removeprefix("sha256:")[:8]
    name = f"{component}-{size[0]}x{size[1]}" if component in _SIZED else component
    return Node(
        id=f"convert-{name}-{short}",
        stage="convert",
        parameters=parameters,
        inputs={"component": ("normalize", source)},
        min_psnr_db=recipe.threshold_db(precision),
    )


def _compile_node(convert: Node) -> Node:
    return Node(
        id=_compiled_id(convert.id),
        stage="compile",
        parameters={"deployment_target": convert.parameters["deployment_target"]},
        inputs={"package": (convert.id, "package")},
    )


def _compiled_id(convert: str) -> str:
    return convert.replace("convert-", "compile-", 1)


def _publish_node(
    request: JobRequest,
    recipe: Recipe,
    build: str,
    size: tuple[int, int],
    converts: Mapping[str, str],
) -> Node:
    compiled = request.compile == "required"
    models = {
        f"model/{component}": (_compiled_id(node), "compiled") if compiled else (node, "package")
        for component, node in converts.items()
    }
    tokenizers = {name: ("normalize", name) for name in ("tokenizer", "tokenizer_2")}
    return Node(
        id=f"publish-{build}",
        stage="publish",
        parameters={
            "name": request.name,
            "size": list(size),
            "recipe": asdict(recipe),
            "clip_skip": request.options.clip_skip,
        },
        inputs={**models, **tokenizers},
        facts={"normalize": "normalize", **converts},
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
