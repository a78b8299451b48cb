"""Bundles of small files, in a store on the S3 server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corepress.domain.artifact import Artifact, Blob, canonical_json
from corepress.domain.bundle import MANIFEST, RESOURCES
from corepress.ports.store import Store

SOURCE = {"uri": "https://models.example/one.safetensors", "sha256": "1" * 64}


def kept(store: Store, data: bytes) -> Blob:
    with store.writer() as writer:
        writer.write(data)
        return writer.commit()


def manifest(
    source: Mapping[str, str] = SOURCE,
    components: Mapping[str, Any] | None = None,
    toolchain: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "family": "sd15",
        "prediction_type": "epsilon",
        "sizes": [[512, 512]],
        "recipe": {"name": "original"},
        "source": dict(source),
        "components": dict(components or {}),
        "toolchain": dict(toolchain or {}),
        "licence": None,
    }


def bundle(store: Store, weights: bytes, source: Mapping[str, str] = SOURCE) -> Artifact:
    """A bundle whose one model has these weights."""
    files = {
        MANIFEST: canonical_json(manifest(source)),
        f"{RESOURCES}/Unet.mlpackage/weight.bin": weights,
    }
    return Artifact({path: kept(store, data) for path, data in files.items()})
