"""Stages that do nothing: what is left of a step is what the fleet itself needs for it.

A job's source names a file that the store holds already; every step hands that on.
"""

from __future__ import annotations

from corepress.domain.artifact import Artifact, Blob
from corepress.domain.stage import Outputs, Stage, Task, Workspace

FACTS = {
    "family": "sd15",
    "prediction_type": "epsilon",
    "components": {"unet": {}, "vae": {}, "text_encoder": {}},
    "vae_scale_factor": 8,
    "unet_divisor": 8,
    "native_size": [512, 512],
}


def fetch(task: Task, workspace: Workspace) -> Outputs:  # noqa: ARG001
    blob = Blob.from_document(task.parameters["source"]["blob"])
    return Outputs({"source": Artifact({"nothing": blob}), "index": Artifact({})})


def normalize(task: Task, workspace: Workspace) -> Outputs:  # noqa: ARG001
    return Outputs(dict.fromkeys(FACTS["components"], task.inputs["source"]), FACTS)


def convert(task: Task, workspace: Workspace) -> Outputs:  # noqa: ARG001
    return Outputs({"package": task.inputs["component"]})


FETCH = Stage("fetch", revision=1, run=fetch)
NORMALIZE = Stage("normalize", revision=1, run=normalize)
CONVERT = Stage("convert", revision=1, run=convert)
PUBLISH = Stage("publish", revision=1, run=convert)
"""Never run; its queue tells that a job's conversions are done."""
