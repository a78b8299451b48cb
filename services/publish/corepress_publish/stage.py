"""The publish stage: models and tokenizer to one bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from corepress.domain.artifact import Artifact, Blob
from corepress.domain.bundle import CHECKSUMS, MANIFEST, MODEL_CARD, RESOURCES, VOCABULARY
from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress_publish.card import model_card
from corepress_publish.manifest import bundle_manifest

_MODEL_INPUT = "model/"


def run(task: Task, workspace: Workspace) -> Outputs:
    """Assemble a bundle.

    Parameters: ``name``, ``recipe``, ``size``, ``clip_skip``, ``further_sources`` (addresses by
    role), and under ``facts`` those of normalize and of each model's convert stage. Inputs:
    ``model/<component>``, one package or compiled model each; ``tokenizer``, ``tokenizer_2``.
    Outputs: ``bundle``; facts: the manifest.
    """
    models = {
        name.removeprefix(_MODEL_INPUT): artifact
        for name, artifact in task.inputs.items()
        if name.startswith(_MODEL_INPUT)
    }
    files = {
        f"{RESOURCES}/{path}": blob
        for artifact in models.values()
        for path, blob in artifact.files.items()
    }
    files |= _vocabulary(task.inputs)
    manifest = bundle_manifest(task.parameters, models)
    files[MANIFEST] = _keep_json(manifest, workspace)
    files[MODEL_CARD] = workspace.keep_bytes(model_card(manifest).encode())
    files[CHECKSUMS] = workspace.keep_bytes(_checksums(files).encode())
    return Outputs({"bundle": Artifact(files)}, {"manifest": manifest})


def _vocabulary(inputs: Mapping[str, Artifact]) -> dict[str, Blob]:
    """The files of the CLIP tokenizer; both of SDXL's have the same vocabulary."""
    tokenizer = inputs.get("tokenizer") or inputs.get("tokenizer_2")
    if tokenizer is None:
        return {}
    return {
        f"{RESOURCES}/{name}": tokenizer.files[name]
        for name in VOCABULARY
        if name in tokenizer.files
    }


def _checksums(files: Mapping[str, Blob]) -> str:
    """The lines that ``sha256sum --check`` reads."""
    return "".join(
        f"{blob.digest.removeprefix('sha256:')}  {path}\n" for path, blob in sorted(files.items())
    )


def _keep_json(document: Mapping[str, Any], workspace: Workspace) -> Blob:
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    return workspace.keep_bytes(text.encode() + b"\n")


STAGE = Stage("publish", revision=2, run=run, toolchain=("corepress",))
