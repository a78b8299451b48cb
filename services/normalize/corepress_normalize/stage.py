"""The normalize stage."""

from __future__ import annotations

import json

from corepress.domain.artifact import Artifact
from corepress.domain.checkpoint import Decision
from corepress.domain.composition import CHECKPOINT
from corepress.domain.job import CheckpointOptions
from corepress.domain.source_index import SourceIndex
from corepress.domain.stage import Handle, Outputs, Stage, Task, Workspace
from corepress_normalize.documents import (
    MANIFEST,
    composition_document,
    json_file,
    manifest,
    source_document,
)
from corepress_normalize.normalize import ROOT, normalize

_INDEX_FILE = "tensors.json"
_NO_SOURCES = ("index", "tokenizer")


def run(task: Task, workspace: Workspace) -> Outputs:
    """Normalize a fetched source.

    Parameters: ``source`` (``uri``), ``options`` (`CheckpointOptions`), ``facts.fetch``, and
    ``lora_scales`` where there are LoRAs. Inputs: the files of every source, by role; ``index``,
    what is known of them; ``tokenizer``, where one replaces the checkpoint's own.

    Outputs: an artifact per folder of the normalized folder, and ``pipeline`` with the files in it
    itself. The digest of a weight file is that of its tensors.

    Raises:
        PermanentError: see `normalize`.
    """
    fetched = task.parameters.get("facts", {}).get("fetch", {})
    scales = task.parameters.get("lora_scales", [])
    sources = {role: files for role, files in task.inputs.items() if role not in _NO_SOURCES}
    normalized = normalize(
        {role: _handles(files, workspace) for role, files in sources.items()},
        CheckpointOptions(**task.parameters["options"]),
        workspace,
        index=_index(task, workspace),
        lora_scales=scales,
        tokenizer=_handles(task.inputs["tokenizer"], workspace)
        if "tokenizer" in task.inputs
        else None,
        earlier_decisions=[Decision(**decision) for decision in fetched.get("decisions", [])],
    )
    facts = {**normalized.facts, "composition": composition_document(sources, scales)}
    source = source_document(task.parameters["source"]["uri"], sources[CHECKPOINT])
    root = normalized.artifacts.get(ROOT, Artifact({}))
    document = manifest(facts, source, normalized.files)
    artifacts = {
        **normalized.artifacts,
        ROOT: Artifact({**root.files, MANIFEST: workspace.keep_bytes(json_file(document))}),
    }
    components = {
        name: {**known, "digest": normalized.digests[name]}
        for name, known in facts["components"].items()
    }
    return Outputs(artifacts, {**facts, "components": components, "source": source})


def _handles(artifact: Artifact, workspace: Workspace) -> dict[str, Handle]:
    return {path: workspace.open(blob) for path, blob in artifact.files.items()}


def _index(task: Task, workspace: Workspace) -> SourceIndex:
    if "index" not in task.inputs:
        return SourceIndex()
    handle = workspace.open(task.inputs["index"].files[_INDEX_FILE])
    return SourceIndex.from_document(json.loads(handle.read(0, handle.size_bytes)))


# numpy: sums and products of LoRAs are its own
STAGE = Stage("normalize", revision=4, run=run, toolchain=("corepress", "numpy"))
