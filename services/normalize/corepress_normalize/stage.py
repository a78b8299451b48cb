"""The normalize stage."""

from __future__ import annotations

import json

from corepress.domain.artifact import Artifact
from corepress.domain.checkpoint import Decision
from corepress.domain.job import CheckpointOptions
from corepress.domain.source_index import SourceIndex
from corepress.domain.stage import Handle, Outputs, Stage, Task, Workspace
from corepress_normalize.documents import MANIFEST, json_file, manifest, source_document
from corepress_normalize.normalize import ROOT, normalize

_INDEX_FILE = "tensors.json"


def run(task: Task, workspace: Workspace) -> Outputs:
    """Normalize a fetched source.

    Parameters: ``source`` (``uri``), ``options`` (`CheckpointOptions`), ``facts.fetch``. Inputs:
    ``source``, the checkpoint's files; ``index``, what is known of them; ``tokenizer``, where one
    replaces the source's own.

    Outputs: an artifact per folder of the normalized folder, and ``pipeline`` with the files in it
    itself. The digest of a weight file is that of its tensors.

    Raises:
        PermanentError: see `normalize`.
    """
    fetched = task.parameters.get("facts", {}).get("fetch", {})
    normalized = normalize(
        _handles(task.inputs["source"], workspace),
        CheckpointOptions(**task.parameters["options"]),
        workspace,
        index=_index(task, workspace),
        tokenizer=_handles(task.inputs["tokenizer"], workspace)
        if "tokenizer" in task.inputs
        else None,
        earlier_decisions=[Decision(**decision) for decision in fetched.get("decisions", [])],
    )
    source = source_document(task.parameters["source"]["uri"], task.inputs["source"])
    root = normalized.artifacts.get(ROOT, Artifact({}))
    document = manifest(normalized.facts, source, normalized.files, {})
    artifacts = {
        **normalized.artifacts,
        ROOT: Artifact({**root.files, MANIFEST: workspace.keep_bytes(json_file(document))}),
    }
    return Outputs(artifacts, {**normalized.facts, "source": source})


def _handles(artifact: Artifact, workspace: Workspace) -> dict[str, Handle]:
    return {path: workspace.open(blob) for path, blob in artifact.files.items()}


def _index(task: Task, workspace: Workspace) -> SourceIndex:
    if "index" not in task.inputs:
        return SourceIndex()
    handle = workspace.open(task.inputs["index"].files[_INDEX_FILE])
    return SourceIndex.from_document(json.loads(handle.read(0, handle.size_bytes)))


STAGE = Stage("normalize", revision=1, run=run, toolchain=("corepress",))
