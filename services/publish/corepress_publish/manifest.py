"""The manifest of a bundle: all that an app or a catalogue needs to know of it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from corepress.domain.artifact import Artifact
from corepress.domain.bundle import RESOURCES, SCHEMA, component_of, whole_of
from corepress.domain.composition import VAE, lora_role
from corepress.domain.plan import step_of
from corepress.domain.recipe import SOURCE_COMPONENT, gives_epsilon


def bundle_manifest(
    parameters: Mapping[str, Any], models: Mapping[str, Artifact]
) -> dict[str, Any]:
    """The content of ``manifest.json``: no times, no paths of a machine.

    Args:
        parameters: of the publish task.
        models: the packages or compiled models by name.
    """
    normalized = parameters["facts"]["normalize"]
    attached = _attachments(parameters)
    recipe = parameters["recipe"]
    converted = gives_epsilon(recipe["prediction_type"], normalized["prediction_type"])
    return {
        "schema": SCHEMA,
        "name": parameters["name"],
        "family": normalized["family"],
        "prediction_type": "epsilon" if converted else normalized["prediction_type"],
        "trained_prediction_type": normalized["prediction_type"],
        "guidance_scale": recipe["guidance_scale"] if _embeds_guidance(normalized) else None,
        "vae_scale_factor": normalized["vae_scale_factor"],
        "scaling_factor": normalized["scaling_factor"],
        "clip_skip": parameters["clip_skip"],
        "sizes": [parameters["size"]] if parameters["size"] else [],
        "recipe": recipe,
        "source": {
            "uri": public_uri(normalized["source"]["uri"]),
            "sha256": normalized["source"]["sha256"],
        },
        "composition": _composition(normalized["composition"], parameters["further_sources"]),
        "attachments": attached,
        "normalized": {name: facts["digest"] for name, facts in normalized["components"].items()}
        | {name: entry["normalized"] for name, entry in attached.items()},
        "components": {
            name: _model(name, artifact, parameters["facts"][whole_of(name)])
            for name, artifact in models.items()
        },
        "toolchain": _toolchain(parameters["facts"][whole_of(name)] for name in models),
        "licence": normalized["licence"],
        "decisions": normalized["decisions"],
    }


def _embeds_guidance(normalized: Mapping[str, Any]) -> bool:
    return any(facts["guidance_embedding"] for facts in normalized["components"].values())


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


def _attachments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What checkpoints beside the base model are, by the names of their models."""
    document = {}
    for name, role in parameters["attachments"].items():
        normalized = parameters["facts"][step_of("normalize", role)]
        component = SOURCE_COMPONENT[component_of(name)]
        document[name] = {
            "uri": public_uri(parameters["further_sources"][role]),
            "sha256": normalized["source"]["sha256"],
            "family": normalized["family"],
            "normalized": normalized["components"][component]["digest"],
            "licence": normalized["licence"],
            "decisions": normalized["decisions"],
        }
    return document


def public_uri(uri: str) -> str:
    """A source's address without what is nobody else's: of a local file, its name; of an address
    on a server, all but the user, the query (which is where access tokens are) and the fragment.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return f"file:{PurePosixPath(uri).name}"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def tree_sha256(artifact: Artifact) -> str:
    """The sha256 of a model's own checksum list, as ``sha256sum`` prints it for sorted paths."""
    lines = (
        f"{blob.digest.removeprefix('sha256:')}  {path}\n"
        for path, blob in sorted(artifact.files.items())
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _model(name: str, artifact: Artifact, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A model's entry; the figures of chunks stand with the second, which gives the outputs."""
    label = name.removeprefix(whole_of(name)).removeprefix("_") or "package"
    interface = facts["interfaces"][label]
    outputs = {feature["name"] for feature in interface["outputs"]}
    return {
        "path": f"{RESOURCES}/{_root(artifact)}",
        "sha256": tree_sha256(artifact),
        "bytes": artifact.size_bytes,
        "precision": facts["precision"],
        "psnr_db": {name: db for name, db in facts["psnr_db"].items() if name in outputs},
        "stamped_from": None,
        "toolchain": facts["toolchain"],
        "inputs": interface["inputs"],
        "outputs": interface["outputs"],
    }


def _root(model: Artifact) -> PurePosixPath:
    """The folder that a package or a compiled model is."""
    path = PurePosixPath(next(iter(model.files)))
    return next(folder for folder in reversed(path.parents) if folder.suffix)


def _toolchain(converted: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The versions that made the models; all of them where hosts had different ones."""
    versions: dict[str, set[str]] = defaultdict(set)
    for facts in converted:
        for name, version in facts["toolchain"].items():
            versions[name].add(version)
    return {name: ", ".join(sorted(found)) for name, found in sorted(versions.items())}
