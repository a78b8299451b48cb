"""The manifest of a bundle: all that an app or a catalogue needs to know of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from corepress.domain.artifact import Artifact
from corepress.domain.composition import VAE, lora_role

SCHEMA = "corepress.bundle/1"
_TOOLCHAIN = ("corepress", "coremltools", "diffusers", "torch", "transformers")


def bundle_manifest(
    parameters: Mapping[str, Any], models: Mapping[str, Artifact], resources: str
) -> dict[str, Any]:
    """The content of ``manifest.json``: no times, no paths of a machine.

    Args:
        parameters: of the publish task.
        models: the package or compiled model of each component.
        resources: the folder of the bundle that they stand in.
    """
    normalized = parameters["facts"]["normalize"]
    return {
        "schema": SCHEMA,
        "name": parameters["name"],
        "family": normalized["family"],
        "prediction_type": normalized["prediction_type"],
        "vae_scale_factor": normalized["vae_scale_factor"],
        "scaling_factor": normalized["scaling_factor"],
        "clip_skip": parameters["clip_skip"],
        "sizes": [parameters["size"]],
        "recipe": parameters["recipe"],
        "source": {
            "uri": public_uri(normalized["source"]["uri"]),
            "sha256": normalized["source"]["sha256"],
        },
        "composition": _composition(normalized["composition"], parameters["further_sources"]),
        "normalized": {name: facts["digest"] for name, facts in normalized["components"].items()},
        "components": {
            component: _model(artifact, parameters["facts"][component], resources)
            for component, artifact in models.items()
        },
        "toolchain": {name: _version(name) for name in _TOOLCHAIN},
        "licence": normalized["licence"],
        "decisions": normalized["decisions"],
    }


def _composition(content: Mapping[str, Any], uris: Mapping[str, str]) -> dict[str, Any]:
    """What the checkpoint was composed with: by content as normalized, by address as asked for."""
    document = dict(content)
    if VAE in content:
        document[VAE] = {"uri": public_uri(uris[VAE]), **content[VAE]}
    if "loras" in content:
        document["loras"] = [
            {"uri": public_uri(uris[lora_role(index)]), **lora}
            for index, lora in enumerate(content["loras"])
        ]
    return document


def public_uri(uri: str) -> str:
    """A source's address without what only this machine knows: of a local file, its name."""
    scheme = urlsplit(uri).scheme
    return uri if scheme not in ("", "file") else f"file:{PurePosixPath(uri).name}"


def tree_sha256(artifact: Artifact) -> str:
    """The sha256 of a model's own checksum list, as ``sha256sum`` prints it for sorted paths."""
    lines = (
        f"{blob.digest.removeprefix('sha256:')}  {path}\n"
        for path, blob in sorted(artifact.files.items())
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _model(artifact: Artifact, facts: Mapping[str, Any], resources: str) -> dict[str, Any]:
    folder = PurePosixPath(next(iter(artifact.files))).parts[0]
    return {
        "path": f"{resources}/{folder}",
        "sha256": tree_sha256(artifact),
        "bytes": artifact.size_bytes,
        "precision": facts["precision"],
        "psnr_db": facts["psnr_db"],
        "stamped_from": None,
        "inputs": facts["inputs"],
        "outputs": facts["outputs"],
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"
