"""The fetch stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from corepress.domain.artifact import Artifact, Blob, canonical_json
from corepress.domain.checkpoint import Identification, Tensor
from corepress.domain.composition import CHECKPOINT, VAE, located
from corepress.domain.errors import InvalidRequest
from corepress.domain.job import CheckpointOptions
from corepress.domain.source_index import IndexedFile, SourceIndex
from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress.identify import compose
from corepress.runtime.files import LocalFile, tokenizer_files
from corepress.runtime.needed_files import needed_by_role
from corepress_fetch.bring import bring_local, bring_remote
from corepress_fetch.source import Source, fingerprint, open_source

_INDEX_FILE = "tensors.json"


def run(task: Task, workspace: Workspace) -> Outputs:
    """Bring the needed files of all sources into the store, once headers told that they fit.

    Parameters: by their roles the sources, as `resolve` gives them; ``options``
    (`CheckpointOptions`).

    Outputs: an artifact per source, under its role; ``index``, what their bytes told (`SourceIndex`
    in ``tensors.json``, with files named by `located`); ``tokenizer``, where the options name one.
    Facts: the decisions made.

    Raises:
        InvalidRequest: a source changed since it was resolved.
        PermanentError: it is not there, or nobody can convert it: see `open_source`, `compose`.
        TransientError: it cannot be read for now.
    """
    options = CheckpointOptions(**task.parameters["options"])
    sources: dict[str, Source] = {}
    for role, resolved in task.parameters.items():
        if role != "options":
            source = open_source(resolved["uri"])
            _refuse_changed(source, resolved)
            sources[role] = source
    # scales are for the stage that merges; whether a LoRA fits does not depend on them
    loras = sum(role not in (CHECKPOINT, VAE) for role in sources)
    composition = compose(sources, [1.0] * loras, options.for_identify)
    composition.refuse_misfits()
    tensors = _planned_tensors(composition.whole)
    artifacts: dict[str, Artifact] = {}
    indexed: dict[str, IndexedFile] = {}
    for role, files in needed_by_role(sources, composition).items():
        blobs: dict[str, Blob] = {}
        for path, file in files.items():
            content = tensors.get(located(role, path), ())
            name = _kept_name(role, path, sources[role])
            blobs[name], indexed[located(role, name)] = (
                bring_local(path, file, content, workspace)
                if isinstance(file, LocalFile)
                else bring_remote(path, file, content, workspace)
            )
        artifacts[role] = Artifact(blobs)
    index = workspace.keep_bytes(canonical_json(SourceIndex(indexed).document()))
    artifacts["index"] = Artifact({_INDEX_FILE: index})
    if options.tokenizer is not None:
        artifacts["tokenizer"] = _tokenizer(Path(options.tokenizer), workspace)
    decisions = [asdict(decision) for decision in composition.file_decisions]
    return Outputs(artifacts, {"decisions": decisions})


def _refuse_changed(source: Source, resolved: Mapping[str, Any]) -> None:
    if fingerprint(source) != resolved["fingerprint"]:
        raise InvalidRequest(
            f"{resolved['uri']} changed since the job was submitted", hint="submit it again"
        )


def _kept_name(role: str, path: str, source: Collection[str]) -> str:
    """A file's name in its artifact, where a further source's only file is called by its role."""
    if role == CHECKPOINT or len(source) > 1:
        return path
    return role + PurePosixPath(path).suffix


def _planned_tensors(identification: Identification) -> dict[str, list[Tensor]]:
    """The stored tensors that normalizing will read, by file, each once."""
    planned = {
        plan.source
        for component in identification.components.values()
        for plan in component.tensors
    }
    by_file: dict[str, list[Tensor]] = {}
    for tensor in planned:
        by_file.setdefault(tensor.file, []).append(tensor)
    return by_file


def _tokenizer(folder: Path, workspace: Workspace) -> Artifact:
    return Artifact(
        {
            name: workspace.keep_bytes(file.read(0, file.size_bytes))
            for name, file in tokenizer_files(folder).items()
        }
    )


STAGE = Stage("fetch", revision=2, run=run, toolchain=("corepress",))
