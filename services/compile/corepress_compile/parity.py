"""The gate: how far a package is from the checkpoint's own forward in torch.

Three figures, never mixed. *conversion*: torch has the weights as the package stores them, so that
only the graph differs. *weights*: torch has the original weights, so that rounding and compression
show too.
Both evaluate the package in float32 arithmetic. *native*, on request: as *conversion*, but every
operation's result is rounded to its declared type, as a device that computes in float16 does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from corepress.domain.errors import VerificationFailed
from corepress.domain.figures import Figures
from corepress.evaluate import Arithmetic, Feature, Package, evaluate_in_turn, psnr_db
from corepress_compile.network import Input, Network
from corepress_compile.networks import load_network
from corepress_compile.reference import forward
from corepress_compile.spec import BuildSpec
from corepress_compile.stored import AsStored

_TIMESTEPS = (1.0, 981.0)
_REFINER_TIME_IDS = 5
_AESTHETIC_SCORE = 6.0
_SEED = 20240521


def measure(
    spec: BuildSpec,
    folder: Path,
    package: Path | Sequence[Path],
    progress: Callable[[float], None],
    *,
    native: bool = False,
) -> Figures:
    """Compare a package with the component it was converted from.

    The batch's rows have the timesteps 1 and 981 (a batch of one: 981). Torch goes first and is
    freed before the package is evaluated.

    Args:
        spec: what was built.
        folder: the normalized component.
        package: the ``.mlpackage``, or those of its chunks.
        progress: takes the fraction done, 0 to 1.
        native: whether to take the native figure too, which evaluates the package once more.

    Raises:
        VerificationFailed: inputs or outputs have other shapes than the checkpoint's.
    """
    paths = [package] if isinstance(package, Path) else package
    packages = [Package.open(path) for path in paths]
    network = load_network(spec, folder)
    inputs = example_inputs(network, spec)
    _hold_to_shapes(packages[0].path, packages[0].inputs, inputs)
    weights = AsStored(network.weights, packages, spec.precision)
    exact = not weights.compressed and (
        spec.precision == "float32" or network.weights.fit_float16()
    )
    progress(0)
    stored = forward(network, weights, inputs)
    _hold_to_shapes(packages[-1].path, packages[-1].outputs, stored)
    progress(0.25)
    original = stored if exact else forward(network, network.weights, inputs)
    progress(0.5)
    runs: dict[Arithmetic, dict[str, Mapping[str, Tensor]]] = {
        "float32": {"conversion": stored, "weights": original}
    }
    if native:
        runs["native"] = {"native": stored}
    figures: dict[str, dict[str, float | None]] = {name: {} for name in network.outputs}
    for turn, (arithmetic, references) in enumerate(runs.items()):

        def report(done: int, total: int, turn: int = turn) -> None:
            progress(0.5 + 0.5 * (turn + done / total) / len(runs))

        for name, value in evaluate_in_turn(packages, inputs, arithmetic, report).items():
            for figure, reference in references.items():
                figures[name][figure] = _rounded(psnr_db(reference[name], value))
    return figures


def _hold_to_shapes(path: Path, features: Sequence[Feature], values: Mapping[str, Tensor]) -> None:
    """Refuse to compare a package with a network that takes or gives something else."""
    for feature in features:
        shape = tuple(values[feature.name].shape) if feature.name in values else None
        if shape != feature.shape:
            raise VerificationFailed(
                f"{path.stem}: {feature.name} is {list(feature.shape)} in the package, "
                f"{list(shape) if shape else 'absent'} in the checkpoint",
                hint="is this the checkpoint that the package was made of?",
                path=path.name,
            )


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
    if given.name == "adjustment":
        return torch.zeros(given.shape)
    values = torch.randn(given.shape, generator=generator)
    if given.name == "x":
        values = values.clamp(-3, 3) / 3
    return values.half().float() if given.dtype == "float16" else values


def _vocabulary(module: nn.Module) -> int:
    tables = [m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)]
    return max(tables, default=0)


def _rounded(figure_db: float) -> float | None:
    return None if figure_db == math.inf else round(max(figure_db, -999.0), 1)
