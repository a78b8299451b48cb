"""The model card: what a person reads first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def model_card(manifest: Mapping[str, Any]) -> str:
    """The bundle's ``README.md``, with the front matter that model hubs read."""
    width, height = manifest["sizes"][0]
    recipe = manifest["recipe"]
    rows = "\n".join(_row(name, component) for name, component in manifest["components"].items())
    further = "".join(f"\n{row}" for row in _further_sources(manifest["composition"]))
    licence = f"license: {manifest['licence']}\n" if manifest["licence"] else ""
    return f"""---
{licence}library_name: coreml
tags: [core-ml, stable-diffusion, {manifest["family"]}]
---

# {manifest["name"]}: Core ML, {recipe["name"]}

Core ML models for Apple's `StableDiffusion` Swift package and the apps built on it.

| | |
|---|---|
| family | {manifest["family"]} |
| image size | {width} x {height} |
| attention | {recipe["attention"]} |
| prediction type | {manifest["prediction_type"]} |
| latent scaling factor | {manifest["scaling_factor"]} |
| deployment target | {recipe["deployment_target"]} |
| source | {manifest["source"]["uri"]}, sha256 `{manifest["source"]["sha256"]}` |{further}
| licence | {manifest["licence"] or "not stated by the source"} |

## Models

Each was evaluated in float32 arithmetic and compared with the checkpoint in torch: *conversion*
with the weights as stored here, *weights* with the original ones.

| model | precision | MB | conversion, dB | weights, dB |
|---|---|---|---|---|
{rows}

`manifest.json` holds every input and output; `sha256sum --check SHA256SUMS` checks the files.
"""


def _further_sources(composition: Mapping[str, Any]) -> Iterator[str]:
    if "vae" in composition:
        yield "| VAE | {uri}, sha256 `{sha256}` |".format(**composition["vae"])
    for lora in composition.get("loras", []):
        yield "| LoRA | {uri} at {scale:g}, sha256 `{sha256}` |".format(**lora)


def _row(name: str, component: Mapping[str, Any]) -> str:
    figures = component["psnr_db"].values()
    conversion = _least(figure["conversion"] for figure in figures)
    weights = _least(figure["weights"] for figure in component["psnr_db"].values())
    megabytes = component["bytes"] / 1e6
    return f"| {name} | {component['precision']} | {megabytes:.1f} | {conversion} | {weights} |"


def _least(figures: Any) -> str:
    known = [figure for figure in figures if figure is not None]
    return f"{min(known)}" if known else "exact"
