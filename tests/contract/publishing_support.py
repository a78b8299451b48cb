"""Bundles of small files, in a store on the S3 server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corepress.domain.artifact import Artifact, Blob, canonical_json
from corepress.domain.bundle import MANIFEST, MODEL_CARD, RESOURCES
from corepress.domain.plan import Node, publish_step
from corepress.ports.store import Store
from corepress.runtime import jobs

SOURCE = {"uri": "https://models.example/one.safetensors", "sha256": "1" * 64}


def kept(store: Store, data: bytes) -> Blob:
    with store.writer() as writer:
        writer.write(data)
        return writer.commit()


def known_job(store: Store, job: str, build: str = "original") -> str:
    """A job whose one build is made of one action."""
    made = Node("convert-unet", "convert", {})
    node = Node(publish_step(build), "publish", {}, inputs={"model/unet": (made.id, "package")})
    opening = canonical_json([made.document(), node.document()])
    store.create(jobs.document_key(job, "opening"), opening)
    step = canonical_json({"action": f"action-of-{job}"})
    store.create(jobs.document_key(job, f"steps/{made.id}"), step)
    return job


def manifest(
    source: Mapping[str, str] = SOURCE,
    components: Mapping[str, Any] | None = None,
    toolchain: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "family": "sd15",
        "prediction_type": "epsilon",
        "sizes": [[512, 512]],
        "recipe": {"name": "original", "attention": "original"},
        "source": dict(source),
        "components": dict(components or {}),
        "toolchain": dict(toolchain or {}),
        "licence": None,
    }


def bundle(store: Store, weights: bytes, source: Mapping[str, str] = SOURCE) -> Artifact:
    """A bundle whose one model has these weights."""
    files = {
        MANIFEST: canonical_json(manifest(source)),
        MODEL_CARD: b"---\nlibrary_name: coreml\n---\n\n# one\n",
        f"{RESOURCES}/Unet.mlpackage/weight.bin": weights,
    }
    return Artifact({path: kept(store, data) for path, data in files.items()})
