"""The fetch stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from corepress.domain.artifact import Artifact, Blob, canonical_json
from corepress.domain.checkpoint import Identification, Tensor
from corepress.domain.errors import InvalidRequest
from corepress.domain.job import CheckpointOptions
from corepress.domain.source_index import IndexedFile, SourceIndex
from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress.identify import identify
from corepress.runtime.files import LocalFile, tokenizer_files
from corepress.runtime.needed_files import needed_files
from corepress_fetch.bring import bring_local, download
from corepress_fetch.source import Source, fingerprint, open_source

_INDEX_FILE = "tensors.json"


def run(task: Task, workspace: Workspace) -> Outputs:
    """Bring the needed files of a source into the store, once headers told that it can be used.

    Parameters: ``source``, as `resolve` gives it; ``options`` (`CheckpointOptions`).

    Outputs: ``source``, the files; ``index``, what their bytes told (`SourceIndex` in
    ``tensors.json``); ``tokenizer``, where the options name one. Facts: the decisions made.

    Raises:
        InvalidRequest: the source changed since it was resolved.
        PermanentError: it is not there, or nobody can convert it: see `open_source`, `identify`.
        TransientError: it cannot be read for now.
    """
    options = CheckpointOptions(**task.parameters["options"])
    resolved = task.parameters["source"]
    source = open_source(resolved["uri"])
    _refuse_changed(source, resolved)
    identification = identify(source, options.for_identify)
    tensors = _planned_tensors(identification)
    blobs: dict[str, Blob] = {}
    indexed: dict[str, IndexedFile] = {}
    for path in needed_files(source, identification):
        file, content = source[path], tensors.get(path, ())
        blobs[path], indexed[path] = (
            bring_local(path, file, content, workspace)
            if isinstance(file, LocalFile)
            else download(file, content, workspace)
        )
    index = workspace.keep_bytes(canonical_json(SourceIndex(indexed).document()))
    artifacts = {"source": Artifact(blobs), "index": Artifact({_INDEX_FILE: index})}
    if options.tokenizer is not None:
        artifacts["tokenizer"] = _tokenizer(Path(options.tokenizer), workspace)
    return Outputs(artifacts, {"decisions": [asdict(d) for d in identification.decisions]})


def _refuse_changed(source: Source, resolved: Mapping[str, Any]) -> None:
    if fingerprint(source) != resolved["fingerprint"]:
        raise InvalidRequest(
            f"{resolved['uri']} changed since the job was submitted", hint="submit it again"
        )


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


STAGE = Stage("fetch", revision=1, run=run, toolchain=("corepress",))
