"""What apps have no input for, baked into a UNet: a guidance scale, a noise schedule."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from corepress_compile.network import Network

_PERIODS = 10_000.0
_PER_GUIDANCE = 1000.0


class _Constant(nn.Module):
    """In place of a projection whose input never changes: what it gave."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, device="meta"), requires_grad=False)

    def forward(self, _: Tensor) -> Tensor:
        return self.weight


def bake_guidance(network: Network, projection: str, scale: float) -> Network:
    """Replace the projection of a guidance embedding by its value for one scale.

    Source: the latent consistency pipelines of diffusers, which embed ``scale - 1``.

    Args:
        network: its projection's module is replaced in place.
        projection: the name of that module, a linear layer.
        scale: the guidance scale.
    """
    parent, _, name = projection.rpartition(".")
    linear = network.module.get_submodule(projection)
    assert isinstance(linear, nn.Linear), "a projection"
    setattr(network.module.get_submodule(parent), name, _Constant(linear.out_features))
    embedding = guidance_embedding(scale, linear.in_features)
    project = partial(torch.mv, vec=embedding)
    return replace(network, weights=network.weights.deriving({f"{projection}.weight": project}))


def guidance_embedding(scale: float, width: int) -> Tensor:
    """Sines, then cosines, of a guidance scale at ``width / 2`` frequencies."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(_PERIODS) / (half - 1)))
    angles = (scale - 1) * _PER_GUIDANCE * frequencies
    return torch.cat([angles.sin(), angles.cos()])


class EpsilonFromV(nn.Module):
    """Turns v into epsilon: ``alpha v + sigma x``, where x has the share alpha of the image.

    Source: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models",
    appendix D.
    """

    alphas: Tensor
    sigmas: Tensor

    def __init__(self, scheduler: Path) -> None:
        """Read the noise schedule off the folder of diffusers' scheduler, of whatever class."""
        super().__init__()
        schedule = DDIMScheduler.from_pretrained(scheduler, local_files_only=True)
        self.register_buffer("alphas", schedule.alphas_cumprod.sqrt())
        self.register_buffer("sigmas", (1 - schedule.alphas_cumprod).sqrt())

    def forward(self, v: Tensor, sample: Tensor, timestep: Tensor) -> Tensor:
        """Of a batch: ``sample`` begins with the latent channels that ``v`` has."""
        step = timestep.to(torch.int32)
        alpha = torch.index_select(self.alphas, 0, step).reshape(-1, 1, 1, 1)
        sigma = torch.index_select(self.sigmas, 0, step).reshape(-1, 1, 1, 1)
        return alpha * v + sigma * sample[:, : v.shape[1]]
