"""The gate: how far a package is from the checkpoint's own forward in torch.

Two figures, never mixed. *conversion*: torch has the weights as the package stores them, so that
only the graph differs. *weights*: torch has the original weights, so that rounding shows too.
Both evaluate the package in float32 arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from corepress.evaluate import Package, evaluate, psnr_db
from corepress_compile.networks import Input, Network, load_network
from corepress_compile.reference import forward
from corepress_compile.spec import BuildSpec
from corepress_compile.weights import Weights

Figures = dict[str, dict[str, float | None]]
"""Per output: ``conversion`` and ``weights`` in dB; None where both sides are exactly equal."""

_TIMESTEPS = (1.0, 981.0)
_REFINER_TIME_IDS = 5
_AESTHETIC_SCORE = 6.0
_SEED = 20240521


def measure(
    spec: BuildSpec,
    folder: Path,
    package: Path,
    progress: Callable[[float], None],
) -> Figures:
    """Compare a package with the component it was converted from.

    The batch's rows have the timesteps 1 and 981 (a batch of one: 981). Torch goes first and is
    freed before the package is evaluated.

    Args:
        spec: what was built.
        folder: the normalized component.
        package: the ``.mlpackage``.
        progress: takes the fraction done, 0 to 1.
    """
    network = load_network(spec, folder)
    inputs = example_inputs(network, spec)
    exact = spec.precision == "float32" or network.weights.fit_float16()
    weights = network.weights if exact else _InFloat16(network.weights)
    stored = forward(network, weights, inputs)
    progress(0.25)
    original = stored if exact else forward(network, network.weights, inputs)
    progress(0.5)
    evaluated = evaluate(
        Package.open(package),
        inputs,
        progress=lambda done, total: progress(0.5 + 0.5 * done / total),
    )
    return {
        name: {
            "conversion": _rounded(psnr_db(stored[name], value)),
            "weights": _rounded(psnr_db(original[name], value)),
        }
        for name, value in evaluated.items()
    }


def example_inputs(network: Network, spec: BuildSpec) -> dict[str, Tensor]:
    """Inputs of realistic scale, the same at every call.

    Values are representable in the types of the package's inputs.
    """
    generator = torch.Generator().manual_seed(_SEED)
    vocabulary = _vocabulary(network.module)
    return {i.name: _example(i, spec, vocabulary, generator) for i in network.inputs}


def _example(given: Input, spec: BuildSpec, vocabulary: int, generator: torch.Generator) -> Tensor:
    if given.name == "input_ids":
        # begin, some words with the largest id among them, then end and padding
        ids = torch.full(given.shape, float(vocabulary - 1))
        words = given.shape[1] // 2
        ids[:, 1 : words + 1] = torch.randint(
            vocabulary - 2, (given.shape[0], words), generator=generator
        ).float()
        ids[:, 0] = vocabulary - 2
        return ids
    if given.name == "timestep":
        return torch.tensor(_TIMESTEPS[-given.shape[0] :])
    if given.name == "time_ids":
        assert spec.latent_size is not None, "a UNet has a size"
        height, width = (float(side * spec.vae_scale_factor) for side in spec.latent_size)
        # original size and crop, then the target size, or the refiner's aesthetic score
        target = [height, width] if given.shape[1] > _REFINER_TIME_IDS else [_AESTHETIC_SCORE]
        return torch.tensor([[height, width, 0.0, 0.0, *target]] * given.shape[0])
    values = torch.randn(given.shape, generator=generator)
    if given.name == "x":
        values = values.clamp(-3, 3) / 3
    return values.half().float() if given.dtype == "float16" else values


def _vocabulary(module: nn.Module) -> int:
    tables = [m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)]
    return max(tables, default=0)


class _InFloat16(Mapping[str, Tensor]):
    """Weights as a float16 package stores them."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[name].half().float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _rounded(figure_db: float) -> float | None:
    return None if figure_db == math.inf else round(max(figure_db, -999.0), 1)
