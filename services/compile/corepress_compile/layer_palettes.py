"""The palettes of all layers under every number of bits, and what these make of the weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corepress.domain.recipe import (
    FEWEST_COMPRESSED,
    UNCOMPRESSED_BITS,
    Bits,
    Precision,
    layer_of,
)
from corepress_compile.encoding import groups_of
from corepress_compile.network import Network
from corepress_compile.palette import best_palettes, nearest
from corepress_compile.weights import Weights

_LAYERS = (nn.Conv2d, nn.Linear)
"""What becomes of `corepress_compile.compression`'s operations."""


@dataclass(frozen=True, slots=True)
class _Palettes:
    """Of one layer under some bits: (groups, 2^bits) values before they are rounded to the weight's
    precision, and the squared error of the weight."""

    values: NDArray[np.float64]
    squared_error: float


class LayerPalettes:
    """The palettes of a network's layers. What is kept is small: no weight."""

    def __init__(
        self,
        network: Network,
        precision: Precision,
        bits: Sequence[Bits],
        group_size: int | None,
        progress: Callable[[int, int], None],
    ) -> None:
        """Find them, on all cores.

        Args:
            network: with its weights.
            precision: of the package.
            bits: of the palettes.
            group_size: how many output channels share a palette; None: all.
            progress: takes the layers done, and all of them.
        """
        self._weights = network.weights
        self._precision = precision
        self.parameters: Mapping[str, str] = dict(compressible(network.module, network.weights))
        """The parameter in the module of each layer, by the layer's name in its file."""
        self._found: dict[tuple[str, Bits], _Palettes] = {}

        def find(layer: str) -> dict[tuple[str, Bits], _Palettes]:
            weight = self.rounded(self.parameters[layer])
            groups = groups_of(weight.shape[0], group_size)
            return {(layer, each): _palettes(weight, each, groups) for each in bits}

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, found in enumerate(pool.map(find, self.parameters), start=1):
                self._found |= found
                progress(done, len(self.parameters))

    def squared_error(self, layer: str, bits: Bits) -> float:
        """The sum over a layer's weight of its squared changes."""
        return self._found[layer, bits].squared_error if bits != UNCOMPRESSED_BITS else 0.0

    def size_bits(self, layer: str, bits: Bits) -> int:
        """What a layer's weight takes, its palettes included."""
        elements = self._weights[self.parameters[layer]].numel()
        whole_bits = np.dtype(self._precision).itemsize * 8
        if bits == UNCOMPRESSED_BITS:
            return elements * whole_bits
        return elements * bits + self._found[layer, bits].values.size * whole_bits

    def weight(self, layer: str, bits: Bits) -> Tensor:
        """A layer's weight as a package stores it, in float32."""
        rounded = self.rounded(self.parameters[layer])
        if bits == UNCOMPRESSED_BITS:
            return rounded.float()
        return _looked_up(rounded, self._found[layer, bits].values)

    def rounded(self, parameter: str) -> Tensor:
        """A parameter in the package's precision."""
        weight = self._weights[parameter]
        return weight.half() if self._precision == "float16" else weight


class UnderBits(Mapping[str, Tensor]):
    """A network's parameters by name, in float32, as a package stores them; nothing is kept."""

    def __init__(self, network: Network, palettes: LayerPalettes, bits: Mapping[str, Bits]) -> None:
        """Choose the bits of every layer."""
        self._weights = network.weights
        self._palettes = palettes
        self._bits = {palettes.parameters[layer]: (layer, each) for layer, each in bits.items()}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._bits:
            return self._palettes.weight(*self._bits[name])
        return self._palettes.rounded(name).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def compressible(module: nn.Module, weights: Weights) -> Iterator[tuple[str, str]]:
    """The layers that can have palettes, by their names in the checkpoint, and the parameter in the
    module of each."""
    for path, layer in module.named_modules():
        name = f"{path}.weight"
        if isinstance(layer, _LAYERS) and layer.weight.numel() >= FEWEST_COMPRESSED:
            yield layer_of(weights.stored_name(name)), name


def _palettes(weight: Tensor, bits: Bits, groups: int) -> _Palettes:
    values = best_palettes(weight, bits, groups)
    change = _looked_up(weight, values) - weight.float()
    return _Palettes(values, float(change.square().sum(dtype=torch.float64)))


def _looked_up(weight: Tensor, palettes: NDArray[np.float64]) -> Tensor:
    """What stands for each element, as it is stored, in float32."""
    indices = nearest(weight, palettes).reshape(len(palettes), -1)
    stored = torch.from_numpy(palettes.astype(weight.numpy().dtype)).float()
    rows = zip(stored, indices, strict=True)
    return torch.stack([palette[row.int()] for palette, row in rows]).reshape(weight.shape)
