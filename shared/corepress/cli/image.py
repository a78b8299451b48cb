"""``corepress verify --image``: an image of a checkpoint beside that of a bundle made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from corepress.cli.progress import ProgressDisplay
from corepress.cli.verification import Checked, Source, published_spec
from corepress.domain.bundle import RESOURCES
from corepress.domain.errors import InvalidRequest
from corepress.domain.recipe import ComponentName
from corepress.evaluate import Arithmetic, psnr_db
from corepress_compile.compare_images import TOKENIZERS, Wish, make_both
from corepress_compile.generate import Settings

_USUAL_GUIDANCE = 7.5
_DRAWN: tuple[ComponentName, ...] = ("unet", "vae_decoder")


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """The options of ``--image``; a guidance scale of None is what the checkpoint is used with."""

    path: Path
    prompt: str
    negative_prompt: str
    steps: int
    seed: int
    guidance_scale: float | None

    @property
    def report_path(self) -> Path:
        """The file that tells the figures."""
        return self.path.with_suffix(".json")


def draw(
    checked: Checked,
    source: Source,
    options: ImageOptions,
    native: bool,
    display: ProgressDisplay,
) -> dict[str, Any]:
    """Make an image twice, and write both with their difference.

    Args:
        checked: the bundle.
        source: the checkpoint.
        options: what to draw and where to write it.
        native: whether the bundle's models round every operation to its declared type.
        display: is told how far it has come.

    Returns:
        what is also written beside the image as JSON: PSNR of the image and of each step's latent.

    Raises:
        InvalidRequest: there is no such bundle, or it lacks a model that takes part.
        PermanentError: see `make_both`.
    """
    manifest = checked.manifest
    if manifest is None:
        raise InvalidRequest("--image needs a bundle: one model makes no image")
    encoders = [name for name in TOKENIZERS if name in checked.packages]
    lacking = [name for name in _DRAWN if name not in checked.packages]
    lacking += [] if encoders else ["text_encoder"]
    if lacking or manifest.scaling_factor is None or manifest.vae_scale_factor is None:
        raise InvalidRequest(
            f"to make images, the bundle needs {', '.join(lacking) or 'a VAE'} as .mlpackage too",
            hint="leave --image out",
        )
    names: list[ComponentName] = [*encoders, *_DRAWN]
    guidance = options.guidance_scale
    if guidance is None:  # where one is baked in, the UNet has it already
        guidance = 1.0 if manifest.guidance_scale else _USUAL_GUIDANCE
    arithmetic: Arithmetic = "native" if native else "float32"

    def show(made_by: str, done: int, steps: int) -> None:
        display.activity(f"image by the {made_by}", done, steps, "step")

    display.say("making an image twice ...")
    torchs, bundles = make_both(
        Wish(options.prompt, options.negative_prompt),
        Settings(
            options.steps,
            options.seed,
            guidance,
            manifest.scaling_factor,
            manifest.vae_scale_factor,
        ),
        source.folder,
        Path(checked.report.bundle) / RESOURCES,
        {
            name: published_spec(
                manifest, next(iter(checked.packages[name])), source.folder / "scheduler"
            )
            for name in names
        },
        {name: list(checked.packages[name].values()) for name in names},
        manifest.prediction_type,
        arithmetic,
        show,
    )
    expected, actual = (_visible(made.image) for made in (torchs, bundles))
    difference = (expected - actual).abs()
    largest = difference.max().item()
    gain = 1 / largest if largest > 0 else 1.0
    report = {
        **asdict(options),
        "path": str(options.path),
        "guidance_scale": guidance,
        "arithmetic": arithmetic,
        "panels": ["checkpoint in torch", "bundle", "difference"],
        "psnr_db": _finite(psnr_db(expected, actual)),
        "largest_difference": largest,
        "difference_gain": gain,
        "latents_psnr_db": [
            _finite(psnr_db(reference, value))
            for reference, value in zip(torchs.latents, bundles.latents, strict=True)
        ],
    }
    _write(options, torch.cat([expected, actual, difference * gain], dim=2), report)
    return report


def _visible(image: Tensor) -> Tensor:
    """What a person sees of an image: (3, height, width) in [0, 1]."""
    return (image[0] / 2 + 0.5).clamp(0, 1)


def _write(options: ImageOptions, panels: Tensor, report: Mapping[str, Any]) -> None:
    pixels = (panels * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    unfinished = options.path.with_name(f".{options.path.name}")
    Image.fromarray(pixels).save(unfinished, format="PNG")
    unfinished.replace(options.path)
    options.report_path.write_text(json.dumps(report, indent=2) + "\n")


def _finite(figure_db: float) -> float | None:
    return round(max(figure_db, -999.0), 1) if figure_db != math.inf else None
