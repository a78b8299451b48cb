"""What a checkpoint takes to normalize and convert: one estimate to show and to hold a disk to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from corepress.domain.bundle import MODEL_NAMES
from corepress.domain.checkpoint import ByteSource, Component
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import UnsupportedRecipe
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.plan import Node, build_nodes
from corepress.domain.recipe import SOURCE_COMPONENT
from corepress.identify import Composition, compose
from corepress.runtime.disk import existing
from corepress.runtime.files import LocalFile
from corepress.runtime.needed_files import needed_by_role
from corepress_compile.forecast import package_bytes, peak_memory_bytes
from corepress_fetch.source import Source, open_source
from corepress_normalize.forecast import PEAK_MEMORY_BYTES, expected_facts, weight_file_sizes


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a job will write, and the memory it takes.

    ``downloads_bytes`` and ``weight_files`` (sizes by path) are what normalizing alone writes,
    ``models`` the sizes of models by a description. ``steps`` has what every step adds to the
    state folder, by its id; ``published_bytes`` is the size of all builds.
    """

    downloads_bytes: int
    weight_files: Mapping[str, int]
    models: Mapping[str, int]
    steps: Mapping[str, int]
    published_bytes: int
    peak_memory_bytes: int

    @property
    def normalize_bytes(self) -> int:
        """What `corepress normalize` writes."""
        return self.downloads_bytes + sum(self.weight_files.values())

    @property
    def run_bytes(self) -> int:
        """What `corepress run` writes, where nothing was done before and no bytes are shared."""
        return sum(self.steps.values()) + self.published_bytes


def composed(
    sources: Mapping[str, str], options: CheckpointOptions
) -> tuple[dict[str, Source], Composition]:
    """The files of sources, which are given by role, and what they make together."""
    files = {role: open_source(uri) for role, uri in sources.items()}
    return files, compose(files, options.lora_scales, options.for_identify)


def job_sources(request: JobRequest) -> dict[str, str]:
    """The addresses of a job's sources by role."""
    return {CHECKPOINT: request.source, **request.options.further_sources}


def forecast(
    sources: Mapping[str, Mapping[str, ByteSource]],
    composition: Composition,
    request: JobRequest,
    state: Path | None = None,
) -> Forecast:
    """What a job will write, told from headers alone.

    Args:
        sources: the files of each source by role.
        composition: what they make together.
        request: the job.
        state: its state folder; files on the same disk are linked there and not copied. Where it
            is not given they are taken to be.
    """
    files = [
        file for each in needed_by_role(sources, composition).values() for file in each.values()
    ]
    downloads_bytes = sum(file.size_bytes for file in files if not isinstance(file, LocalFile))
    weight_files = weight_file_sizes(
        composition.whole, request.options.precision, request.options.max_shard_size
    )
    nodes: list[Node] = []
    with suppress(UnsupportedRecipe):  # then it is normalized and no more
        nodes = build_nodes(request, expected_facts(composition.whole))
    packages = {
        node.id: package_bytes(node.parameters, _source(node, composition))
        for node in nodes
        if node.stage == "convert"
    }
    chunks = {node.id: node.parameters.get("chunks", 1) for node in nodes}
    compiled = {
        node.id: packages[needed] // chunks[needed]
        for node in nodes
        if node.stage == "compile"
        for needed in node.needs
    }
    copied_bytes = sum(file.size_bytes for file in files if _is_copied(file, state))
    published = compiled or packages
    return Forecast(
        downloads_bytes=downloads_bytes,
        weight_files=weight_files,
        models={_description(node): packages[node.id] for node in nodes if node.id in packages},
        steps={
            "fetch": downloads_bytes + copied_bytes,
            "normalize": sum(weight_files.values()),
            **packages,
            **compiled,
        },
        published_bytes=sum(
            published.get(step, 0)
            for node in nodes
            if node.stage == "publish"
            for step in {step for step, _ in node.inputs.values()}
        ),
        peak_memory_bytes=max(
            [
                PEAK_MEMORY_BYTES,
                *(
                    peak_memory_bytes(node.parameters, _source(node, composition))
                    for node in nodes
                    if node.id in packages
                ),
            ]
        ),
    )


def _source(node: Node, composition: Composition) -> Component:
    return composition.whole.components[SOURCE_COMPONENT[node.parameters["component"]]]


def _description(node: Node) -> str:
    name = f"{MODEL_NAMES[node.parameters['component']]}.mlpackage"
    size = "x".join(map(str, node.parameters.get("size", ())))
    return f"{name} ({', '.join(filter(None, (size, node.parameters['precision'])))})"


def _is_copied(file: ByteSource, state: Path | None) -> bool:
    """Whether a file on disk cannot be linked into the state folder."""
    return (
        state is not None
        and isinstance(file, LocalFile)
        and file.local_path().stat().st_dev != existing(state).stat().st_dev
    )
