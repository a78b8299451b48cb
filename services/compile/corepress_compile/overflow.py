"""Whether a VAE computes in float16 what it is to compute, found by running it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corepress.domain.errors import VerificationFailed
from corepress_compile.network import Network, latent_size
from corepress_compile.networks import load_network
from corepress_compile.reference import forward
from corepress_compile.spec import BuildSpec

_LARGEST_FLOAT16 = 65504.0
_ROOM = 2.0
"""By how much other inputs may give larger numbers than the one that is tried."""
_LARGEST_LATENT_SIDE = 32
"""Of what is tried: how large activations are hardly depends on the size of the image."""
_SEED = 20240521


def without_overflow(spec: BuildSpec, otherwise: str, folder: Path) -> BuildSpec:
    """What a float16 VAE is to be built as, once it was run.

    Args:
        spec: what is to be built.
        otherwise: where numbers leave float16's range, ``float32`` or ``refuse``.
        folder: the normalized component.

    Raises:
        VerificationFailed: numbers do, and that is to be refused.
    """
    largest = largest_activation(spec, folder)
    if otherwise == "float32" and largest * _ROOM > _LARGEST_FLOAT16:
        return replace(spec, precision="float32")
    if largest > _LARGEST_FLOAT16:
        raise VerificationFailed(
            f"{spec.component} computes numbers up to {largest:.3g}, "
            f"float16 ends at {_LARGEST_FLOAT16:.0f}: images would be black",
            hint=f"set precision: {{{spec.component}: auto}} in the recipe, or give a VAE that was "
            "fixed for float16 with --vae",
        )
    return spec


@torch.no_grad()
def largest_activation(spec: BuildSpec, folder: Path) -> float:
    """The largest magnitude that any layer of a VAE gives, of an input of realistic scale."""
    height, width = (min(side, _LARGEST_LATENT_SIDE) for side in latent_size(spec))
    network = load_network(replace(spec, latent_size=(height, width)), folder)
    seen: list[float] = []

    def look(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.append(output.abs().amax().item())

    with ExitStack() as stack:
        for layer in network.module.modules():
            stack.callback(layer.register_forward_hook(look).remove)
        forward(network, network.weights, _inputs(network, folder))
    return max(seen)


def _inputs(network: Network, folder: Path) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(_SEED)
    (given,) = network.inputs
    values = torch.randn(given.shape, generator=generator)
    if given.name == "x":
        return {given.name: values.clamp(-3, 3) / 3}
    config = json.loads((folder / "config.json").read_text())
    return {given.name: values / config.get("scaling_factor", 1.0)}
