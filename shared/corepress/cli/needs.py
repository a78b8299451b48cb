"""What a checkpoint takes to normalize and convert: one estimate to show and to hold a disk to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corepress.domain.bundle import MODEL_NAMES, attached_controlnet
from corepress.domain.checkpoint import ByteSource, Component
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import UnsupportedRecipe
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.plan import Node, build_nodes, step_of
from corepress.identify import Composition, compose
from corepress.runtime.disk import existing
from corepress.runtime.files import LocalFile
from corepress.runtime.needed_files import needed_by_role
from corepress_compile.forecast import compile_minutes, package_bytes, peak_memory_bytes
from corepress_fetch.source import open_source
from corepress_normalize.forecast import PEAK_MEMORY_BYTES, expected_facts, weight_file_sizes


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a job will write, and the memory it takes.

    ``downloads_bytes`` and ``weight_files`` (sizes by path) are what normalizing alone writes,
    ``all_downloads_bytes`` what comes from servers with what is attached; ``models`` the sizes of
    models by a description, ``budgets`` the memory that converting each takes. ``steps`` has what
    every step adds to the state folder, by its id, ``memory`` the memory of those that take more
    than `PEAK_MEMORY_BYTES`; ``published_bytes`` is the size of all builds.
    ``mac_minutes`` has what each compile step is assumed to take.
    """

    downloads_bytes: int
    all_downloads_bytes: int
    weight_files: Mapping[str, int]
    models: Mapping[str, int]
    budgets: Mapping[str, int]
    steps: Mapping[str, int]
    memory: Mapping[str, int]
    published_bytes: int
    mac_minutes: Mapping[str, float]

    @property
    def peak_memory_bytes(self) -> int:
        """What the step that takes most memory takes: one runs at a time."""
        return max([PEAK_MEMORY_BYTES, *self.memory.values()])

    @property
    def normalize_bytes(self) -> int:
        """What `corepress normalize` writes."""
        return self.downloads_bytes + sum(self.weight_files.values())

    @property
    def run_bytes(self) -> int:
        """What `corepress run` writes, where nothing was done before and no bytes are shared."""
        return sum(self.steps.values()) + self.published_bytes


@dataclass(frozen=True, slots=True)
class Headers:
    """A checkpoint as its headers show it, with what is put into it: files by role, and a whole."""

    files: Mapping[str, Mapping[str, ByteSource]]
    composition: Composition
    options: CheckpointOptions

    @property
    def needed(self) -> list[ByteSource]:
        """The files that it is normalized from."""
        by_role = needed_by_role(self.files, self.composition)
        return [file for files in by_role.values() for file in files.values()]

    @property
    def downloads_bytes(self) -> int:
        """What of these is not on disk."""
        return sum(file.size_bytes for file in self.needed if not isinstance(file, LocalFile))

    @property
    def weight_files(self) -> dict[str, int]:
        """The sizes of the weight files that normalizing will write, by path."""
        return weight_file_sizes(
            self.composition.whole, self.options.precision, self.options.max_shard_size
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the normalize stage will find."""
        return expected_facts(self.composition.whole)


def read_headers(request: JobRequest, role: str = CHECKPOINT) -> Headers:
    """Read the headers of a job's checkpoint, or of one that is attached to it.

    Raises:
        PermanentError, TransientError: see `open_source` and `compose`.
    """
    if role == CHECKPOINT:
        uris, options = job_sources(request), request.options
    else:
        uris, options = {CHECKPOINT: request.attachments[role]}, request.options.for_attachments
    files = {each: open_source(uri) for each, uri in uris.items()}
    return Headers(files, compose(files, options.lora_scales, options.for_identify), options)


def job_sources(request: JobRequest) -> dict[str, str]:
    """The addresses of what a job's base model is made of, by role."""
    return {CHECKPOINT: request.source, **request.options.further_sources}


def forecast(
    checkpoints: Mapping[str, Headers], request: JobRequest, state: Path | None = None
) -> Forecast:
    """What a job will write, told from headers alone.

    Args:
        checkpoints: the base model and what is attached to it, by role.
        request: the job.
        state: its state folder; files on the same disk are linked there and not copied. Where it
            is not given they are taken to be.

    Raises:
        IncompatibleControlNet, IncompatibleRefiner: what is attached does not fit.
    """
    base = checkpoints[CHECKPOINT]
    nodes: list[Node] = []
    with suppress(UnsupportedRecipe):  # then it is normalized and no more
        nodes = build_nodes(request, {role: each.facts for role, each in checkpoints.items()})
    converts = [node for node in nodes if node.stage == "convert"]
    described = {node.id: _description(node, request) for node in converts}
    packages = {
        node.id: package_bytes(node.parameters, _source(node, checkpoints)) for node in converts
    }
    memory = {
        node.id: peak_memory_bytes(node.parameters, _source(node, checkpoints)) for node in converts
    }
    chunks = {node.id: node.parameters.get("chunks", 1) for node in nodes}
    compiled = {
        node.id: packages[needed] // chunks[needed]
        for node in nodes
        if node.stage == "compile"
        for needed in node.needs
    }
    parameters = {node.id: node.parameters for node in converts}
    minutes = {
        node.id: compile_minutes(parameters[needed], compiled[node.id])
        for node in nodes
        if node.stage == "compile"
        for needed in node.needs
    }
    opening: dict[str, int] = {}
    for role, each in checkpoints.items():
        copied_bytes = sum(file.size_bytes for file in each.needed if _is_copied(file, state))
        opening[step_of("fetch", role)] = each.downloads_bytes + copied_bytes
        opening[step_of("normalize", role)] = sum(each.weight_files.values())
    published = compiled or packages
    return Forecast(
        downloads_bytes=base.downloads_bytes,
        all_downloads_bytes=sum(each.downloads_bytes for each in checkpoints.values()),
        weight_files=base.weight_files,
        models={description: packages[node] for node, description in described.items()},
        budgets={description: memory[node] for node, description in described.items()},
        steps={**opening, **packages, **compiled},
        memory=memory,
        published_bytes=sum(
            published.get(step, 0)
            for node in nodes
            if node.stage == "publish"
            for step in {step for step, _ in node.inputs.values()}
        ),
        mac_minutes=minutes,
    )


def _source(node: Node, checkpoints: Mapping[str, Headers]) -> Component:
    """The component that a node converts."""
    _, component = node.inputs["component"]
    return checkpoints[_role(node, checkpoints)].composition.whole.components[component]


def _role(node: Node, roles: Iterable[str]) -> str:
    """The checkpoint that a node converts a component of."""
    normalizing, _ = node.inputs["component"]
    return next(role for role in roles if step_of("normalize", role) == normalizing)


def _description(node: Node, request: JobRequest) -> str:
    component = node.parameters["component"]
    role = _role(node, (CHECKPOINT, *request.attachments))
    name = MODEL_NAMES[component]
    if component == "controlnet" and role != CHECKPOINT:
        name = attached_controlnet(request.attachments[role])
    size = "x".join(map(str, node.parameters.get("size", ())))
    return f"{name}.mlpackage ({', '.join(filter(None, (size, node.parameters['precision'])))})"


def _is_copied(file: ByteSource, state: Path | None) -> bool:
    """Whether a file on disk cannot be linked into the state folder."""
    return (
        state is not None
        and isinstance(file, LocalFile)
        and file.local_path().stat().st_dev != existing(state).stat().st_dev
    )
