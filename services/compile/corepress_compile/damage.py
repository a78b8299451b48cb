"""What compressed layers do to a network's outputs, measured in torch.

Torch with the weights that a package stores gives what the evaluator gives, which is what the gate
holds every package to; it needs no package and runs several trials at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from corepress.domain.recipe import Bits
from corepress_compile.layer_palettes import LayerPalettes, UnderBits
from corepress_compile.network import Network
from corepress_compile.reference import forward

_TRIALS_AT_ONCE = 8


def damage_of_all(
    network: Network,
    palettes: LayerPalettes,
    bits: Mapping[str, Bits],
    inputs: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> float:
    """The damage of all layers under their bits together, see `relative_error`."""
    return relative_error(expected, forward(network, UnderBits(network, palettes, bits), inputs))


def damages_of_each(
    network: Network,
    palettes: LayerPalettes,
    trials: Mapping[str, Sequence[str]],
    bits: Bits,
    inputs: Mapping[str, Tensor],
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    """The damage of each group of layers, all others being as they are in the checkpoint.

    Several groups are tried in one forward, each in rows of its own of a batch, so that weights are
    read once for all of them.

    Args:
        network: with its weights.
        palettes: of its layers.
        trials: the layers of each group.
        bits: that each group is tried with.
        inputs: one batch.
        progress: takes the groups done, and all of them.
    """
    expected = forward(network, network.weights, inputs)
    rows = len(next(iter(inputs.values())))
    damages: dict[str, float] = {}
    all_names = list(trials)
    for start in range(0, len(all_names), _TRIALS_AT_ONCE):
        names = all_names[start : start + _TRIALS_AT_ONCE]
        repeated = {name: torch.cat([value] * len(names)) for name, value in inputs.items()}
        places = {
            palettes.parameters[layer]: (layer, slice(rows * trial, rows * (trial + 1)))
            for trial, name in enumerate(names)
            for layer in trials[name]
        }
        with _damaged(network.module, palettes, bits, places):
            outputs = forward(network, network.weights, repeated)
        for trial, name in enumerate(names):
            its = slice(rows * trial, rows * (trial + 1))
            damages[name] = relative_error(
                expected, {output: value[its] for output, value in outputs.items()}
            )
        progress(len(damages), len(trials))
    return damages


def relative_error(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """The mean squared error as a share of the squared largest magnitude, of the worst output.

    The PSNR is -10 log10 of it.
    """
    return max(
        float(
            (found[name] - value).square().mean(dtype=torch.float64)
            / value.abs().max().double().square()
        )
        for name, value in expected.items()
    )


@contextmanager
def _damaged(
    module: nn.Module,
    palettes: LayerPalettes,
    bits: Bits,
    places: Mapping[str, tuple[str, slice]],
) -> Iterator[None]:
    """Let layers compute some rows of what they give with other weights.

    To be entered before `forward`: its hooks drop a layer's weights after those of here have run.

    Args:
        module: the network's.
        palettes: of its layers.
        bits: that those layers have in those rows.
        places: layers and rows, by the layers' parameters.
    """
    with ExitStack() as stack:
        for parameter, (name, rows) in places.items():

            def again(
                layer: nn.Module,
                arguments: tuple[Any, ...],
                output: Tensor,
                name: str = name,
                rows: slice = rows,
            ) -> None:
                weight = layer.get_parameter("weight")
                damaged = nn.Parameter(palettes.weight(name, bits), requires_grad=False)
                layer.register_parameter("weight", damaged)
                output[rows] = layer.forward(arguments[0][rows])
                layer.register_parameter("weight", weight)

            path = parameter.removesuffix(".weight")
            stack.callback(module.get_submodule(path).register_forward_hook(again).remove)
        yield
