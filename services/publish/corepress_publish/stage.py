"""The publish stage: models and tokenizer to one bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from corepress.domain.artifact import Artifact, Blob
from corepress.domain.bundle import (
    CHECKSUMS,
    CONTROLNETS,
    MANIFEST,
    MODEL_CARD,
    MODEL_NAMES,
    RESOURCES,
    VOCABULARY,
    component_of,
    controlnet_name,
    whole_of,
)
from corepress.domain.errors import VerificationFailed
from corepress.domain.figures import outputs_below
from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress_publish.card import model_card
from corepress_publish.manifest import bundle_manifest

_MODEL_INPUT = "model/"


def run(task: Task, workspace: Workspace) -> Outputs:
    """Assemble a bundle.

    Parameters: ``name``, ``recipe``, ``size``, ``clip_skip``, ``further_sources`` (addresses by
    role), ``attachments`` (the roles of checkpoints beside the base model, by the names of their
    models), and under ``facts`` those of each checkpoint's normalize and of each model's convert
    stage; ``min_psnr_db``, the least conversion figure of each precision. Inputs:
    ``model/<name>``, one package or compiled model each; ``tokenizer``, ``tokenizer_2``. Outputs:
    ``bundle``; facts: the manifest.

    Raises:
        VerificationFailed: a model has a lower figure.
    """
    models = {
        name: _placed(name, artifact, task.parameters)
        for name, artifact in _models(task.inputs).items()
    }
    facts = {name: task.parameters["facts"][name] for name in map(whole_of, models)}
    _refuse_below_threshold(facts, task.parameters["min_psnr_db"])
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


def _refuse_below_threshold(facts: Mapping[str, Any], min_psnr_db: Mapping[str, float]) -> None:
    """The gate. It stands here, where builds part: one conversion may serve several recipes."""
    failed = [
        f"{model}: output {output!r} agrees with the checkpoint to {reached_db} dB, "
        f"the recipe asks for {least_db} dB"
        for model, its_facts in facts.items()
        for least_db in (min_psnr_db[its_facts["precision"]],)
        for output, reached_db in outputs_below(its_facts["psnr_db"], least_db).items()
    ]
    if failed:
        raise VerificationFailed(
            "; ".join(failed),
            hint="convert in float32, or lower min_psnr_db in the recipe if you accept it",
        )


def _models(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    return {
        name.removeprefix(_MODEL_INPUT): artifact
        for name, artifact in inputs.items()
        if name.startswith(_MODEL_INPUT)
    }


def _placed(name: str, model: Artifact, parameters: Mapping[str, Any]) -> Artifact:
    """A model where apps look for it: a ControlNet among others, under a name of its own."""
    if component_of(name) != "controlnet":
        return model
    place = name
    if name == "controlnet":
        uri = parameters["facts"]["normalize"]["source"]["uri"]
        place = f"{CONTROLNETS}/{controlnet_name(parameters['name'], uri)}"
    return Artifact(
        {
            path.replace(MODEL_NAMES["controlnet"], place, 1): blob
            for path, blob in model.files.items()
        }
    )


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


STAGE = Stage("publish", revision=4, run=run, toolchain=("corepress",))
