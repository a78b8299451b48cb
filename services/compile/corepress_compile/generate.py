"""From a text to an image: the loop that apps run, with whatever computes the models.

Source: the text-to-image pipelines of diffusers and of Apple's Swift package ``StableDiffusion``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from corepress.domain.recipe import ComponentName

Models = Callable[[ComponentName, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Computes a model's outputs of its inputs, by the names of the Core ML interface."""

Tokens = Mapping[ComponentName, Tensor]
"""The ids of a text, (1, 77), for each text encoder."""

_LATENT_CHANNELS = 4
_REFINER_TIME_IDS = 5
_AESTHETIC_SCORES = (2.5, 6.0)
"""Of what the image should not be, and of what it should."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for. A guidance scale of 1 is none."""

    steps: int
    seed: int
    guidance_scale: float
    scaling_factor: float
    vae_scale_factor: int


@dataclass(frozen=True, slots=True)
class Generated:
    """An image, (1, 3, height, width) in [-1, 1], and the latent after every step."""

    image: Tensor
    latents: Sequence[Tensor]


def generate(
    models: Models,
    unet_inputs: Mapping[str, tuple[int, ...]],
    negative: Tokens,
    positive: Tokens,
    scheduler: Any,
    settings: Settings,
    progress: Callable[[int, int], None],
) -> Generated:
    """Run the loop once; equal seeds give equal noise.

    Args:
        models: the models.
        unet_inputs: the shapes of the UNet's inputs by name, which tell batch and size.
        negative: what the image should not be.
        positive: what it should be.
        scheduler: one of diffusers'.
        settings: the rest.
        progress: takes the number of steps done, and of all.
    """
    scheduler.set_timesteps(settings.steps)
    generator = torch.Generator().manual_seed(settings.seed)
    _, _, height, width = unet_inputs["sample"]
    latent = torch.randn((1, _LATENT_CHANNELS, height, width), generator=generator)
    latent = latent * scheduler.init_noise_sigma
    texts = [_encoded(models, tokens) for tokens in (negative, positive)]
    rows = [
        _known(unet_inputs, text, settings.vae_scale_factor, score)
        for text, score in zip(texts, _AESTHETIC_SCORES, strict=True)
    ]
    draws = "generator" in signature(scheduler.step).parameters
    extra = {"generator": generator} if draws else {}
    latents = []
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        sample = scheduler.scale_model_input(latent, timestep)
        noise = _predicted(models, unet_inputs, sample, timestep, rows, settings.guidance_scale)
        latent = scheduler.step(noise, timestep, latent, **extra, return_dict=False)[0]
        latents.append(latent)
        progress(done, len(scheduler.timesteps))
    image = models("vae_decoder", {"z": latent / settings.scaling_factor})["image"]
    return Generated(image, latents)


def _encoded(models: Models, tokens: Tokens) -> dict[str, Tensor]:
    """What text encoders make of a text: their states side by side, and the last one's pooled."""
    states = []
    pooled = torch.empty(0)
    for encoder, ids in tokens.items():
        outputs = models(encoder, {"input_ids": ids})
        states.append(outputs.get("hidden_embeds", outputs.get("last_hidden_state")))
        pooled = outputs["pooled_outputs"]
    # (1, 77, channels) to (1, channels, 1, 77)
    hidden = torch.cat([state for state in states if state is not None], dim=2)
    return {"encoder_hidden_states": hidden.transpose(1, 2)[:, :, None], "text_embeds": pooled}


def _known(
    unet_inputs: Mapping[str, tuple[int, ...]],
    text: Mapping[str, Tensor],
    vae_scale_factor: int,
    score: float,
) -> dict[str, Tensor]:
    """A row of all inputs but the sample and the timestep."""
    known = {"encoder_hidden_states": text["encoder_hidden_states"]}
    if "time_ids" in unet_inputs:
        sides = [float(side * vae_scale_factor) for side in unet_inputs["sample"][2:]]
        is_refiner = unet_inputs["time_ids"][1] == _REFINER_TIME_IDS
        time_ids = [*sides, 0.0, 0.0, *([score] if is_refiner else sides)]
        known |= {"time_ids": torch.tensor([time_ids]), "text_embeds": text["text_embeds"]}
    return known


def _predicted(
    models: Models,
    unet_inputs: Mapping[str, tuple[int, ...]],
    sample: Tensor,
    timestep: Tensor,
    rows: Sequence[Mapping[str, Tensor]],
    guidance_scale: float,
) -> Tensor:
    """The prediction under guidance: one call of a batch of two, or two calls of one row."""
    batch = unet_inputs["sample"][0]
    results = []
    wanted = rows if batch > 1 or guidance_scale != 1 else rows[1:]
    for start in range(0, len(wanted), batch):
        call = wanted[start : start + batch]
        inputs = {
            "sample": sample.repeat(batch, 1, 1, 1),
            "timestep": timestep.float().repeat(batch),
            **{name: torch.cat([row[name] for row in call]) for name in call[0]},
        }
        results.append(models("unet", inputs)["noise_pred"])
    noise = torch.cat(results)
    unguided, guided = noise[:1], noise[-1:]
    return unguided.lerp(guided, guidance_scale)
