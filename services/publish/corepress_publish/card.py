"""The model card: what a person reads first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from corepress.domain.figures import Figures

HUB_LICENCES = frozenset(
    [
        "afl-3.0",
        "agpl-3.0",
        "apache-2.0",
        "apple-amlr",
        "apple-ascl",
        "artistic-2.0",
        "bigcode-openrail-m",
        "bigscience-bloom-rail-1.0",
        "bigscience-openrail-m",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "bsl-1.0",
        "c-uda",
        "cc",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "creativeml-openrail-m",
        "deepfloyd-if-license",
        "ecl-2.0",
        "epl-1.0",
        "epl-2.0",
        "eupl-1.1",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "intel-research",
        "isc",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "mit",
        "mpl-2.0",
        "ms-pl",
        "ncsa",
        "odbl",
        "ofl-1.1",
        "openrail",
        "openrail++",
        "osl-3.0",
        "other",
        "postgresql",
        "unknown",
        "unlicense",
        "wtfpl",
        "zlib",
    ]
)
"""The identifiers that the Hugging Face Hub takes; a card with any other is refused there.

Source: https://huggingface.co/docs/hub/repositories-licenses
"""


def model_card(manifest: Mapping[str, Any]) -> str:
    """The bundle's ``README.md``, with the front matter that model hubs read."""
    sizes = ", ".join(f"{width} x {height}" for width, height in manifest["sizes"])
    recipe = manifest["recipe"]
    guidance = manifest["guidance_scale"]
    baked = f"\n| guidance scale | {guidance:g}, part of the Unet |" if guidance else ""
    rows = "\n".join(_row(name, component) for name, component in manifest["components"].items())
    further = "".join(f"\n{row}" for row in _further_sources(manifest))
    licence = _licence(manifest["licence"])
    return f"""---
{licence}library_name: coreml
tags: [core-ml, stable-diffusion, {manifest["family"]}]
---

# {manifest["name"]}: Core ML, {recipe["name"]}

Core ML models for Apple's `StableDiffusion` Swift package and the apps built on it.

| | |
|---|---|
| family | {manifest["family"]} |
| image size | {sizes or "any"} |
| attention | {recipe["attention"]} |
| prediction type | {manifest["prediction_type"]} |{baked}
| latent scaling factor | {manifest["scaling_factor"] or "not known"} |
| deployment target | {recipe["deployment_target"]} |
| source | {_cell(manifest["source"]["uri"])}, sha256 `{manifest["source"]["sha256"]}` |{further}
| licence | {_cell(manifest["licence"] or "not stated by the source")} |

## Models

Each was evaluated in float32 arithmetic and compared with the checkpoint in torch: *conversion*
with the weights as stored here, *weights* with the original ones.

| model | precision | MB | conversion, dB | weights, dB |
|---|---|---|---|---|
{rows}

`manifest.json` holds every input and output; `sha256sum --check SHA256SUMS` checks the files.
"""


def _licence(stated: str | None) -> str:
    """The licence as hubs take it: by one of their identifiers, or as another one."""
    if stated is None:
        return ""
    text = json.dumps(stated)  # which is a YAML string too, whatever stands in it
    return (
        f"license: {text}\n"
        if stated in HUB_LICENCES
        else f"license: other\nlicense_name: {text}\n"
    )


def _further_sources(manifest: Mapping[str, Any]) -> Iterator[str]:
    composition = manifest["composition"]
    if "vae" in composition:
        vae = composition["vae"]
        yield f"| VAE | {_cell(vae['uri'])}, sha256 `{vae['sha256']}` |"
    for lora in composition.get("loras", []):
        yield f"| LoRA | {_cell(lora['uri'])} at {lora['scale']:g}, sha256 `{lora['sha256']}` |"
    for name, other in manifest["attachments"].items():
        licence = f", licence {_cell(other['licence'])}" if other["licence"] else ""
        yield f"| {name} | {_cell(other['uri'])}, sha256 `{other['sha256']}`{licence} |"


def _row(name: str, component: Mapping[str, Any]) -> str:
    conversion, weights = (_least(component["psnr_db"], each) for each in ("conversion", "weights"))
    megabytes = component["bytes"] / 1e6
    return f"| {name} | {component['precision']} | {megabytes:.1f} | {conversion} | {weights} |"


def _least(figures: Figures, figure: str) -> str:
    known = [db for each in figures.values() if (db := each[figure]) is not None]
    if not figures:
        return "with the next"
    return f"{min(known)}" if known else "exact"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
