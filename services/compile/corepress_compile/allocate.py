"""Bits for each layer of a model: the least damage to its outputs for a size, or the least size for
a PSNR."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from corepress.domain.errors import InvalidRequest
from corepress.domain.recipe import DENOISERS, UNCOMPRESSED_BITS, VAES, Bits
from corepress_compile.bit_path import BitPath, Option
from corepress_compile.damage import damage_of_all, damages_of_each
from corepress_compile.layer_palettes import LayerPalettes
from corepress_compile.networks import load_network
from corepress_compile.parity import example_inputs
from corepress_compile.reference import forward
from corepress_compile.spec import BuildSpec

_MOST_GROUPS = 400
"""Where a network has more layers, neighbours share their bits."""
_MOST_POSITIONS = 1024
"""Of a latent on which groups are tried: a larger one is halved until it has no more. Which layers
do most damage hardly depends on the image's size; what is chosen is measured at the full size."""
_MOST_POSITIONS_OF_VAES = 256
"""Each of these is 64 pixels, whose activations are most of what a VAE takes."""
_TRIED_WITH: Bits = 4
"""Under other bits, a group's damage is taken to grow with the squared error of its weights."""
_TRIES = 6
"""Of choices that are measured, on the way to a PSNR."""
_DIGITS = 4
"""Of damages that bits are chosen by: the last bits of a sum depend on the number of cores."""

Progress = Callable[[str, int, int], None]
"""Takes what is being done (``palettes``, ``groups``, ``choices``), how much of it, and of all."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """Bits for each layer, by its name in the checkpoint; 16 are no palette.

    ``weight_bytes`` is the size of all the model's weights, ``bits_per_weight`` their mean.
    ``psnr_db`` is that of the worst output against the original weights, None where all is equal.
    """

    layers: Mapping[str, Bits]
    weight_bytes: int
    bits_per_weight: float
    psnr_db: float | None


class Allocator:
    """A model's layers with their palettes, and what each group of them does to its outputs.

    ``inputs`` are one batch, of the early and the late timestep, ``expected`` what the original
    weights make of it.
    """

    def __init__(
        self,
        spec: BuildSpec,
        folder: Path,
        bits: Sequence[Bits],
        group_size: int | None,
        progress: Progress,
    ) -> None:
        """Open a component.

        Args:
            spec: of the model; its compression counts for nothing.
            folder: the normalized component.
            bits: that layers may have, beside 16.
            group_size: see `corepress.domain.recipe.Compression`.
            progress: is told how far it has come.

        Raises:
            PermanentError: see `load_network`.
        """
        if spec.component in DENOISERS:
            spec = replace(spec, batch=2)  # an early and a late timestep
        self._spec, self._folder = spec, folder
        self._bits = bits
        self._progress = progress
        self.network = load_network(spec, folder)
        self.palettes = LayerPalettes(
            self.network,
            spec.precision,
            bits,
            group_size,
            lambda done, total: progress("palettes", done, total),
        )
        self.inputs = example_inputs(self.network, spec)
        self.expected = forward(self.network, self.network.weights, self.inputs)
        self._groups = grouped(list(self.palettes.parameters), _MOST_GROUPS)

    def uniform(self, bits: Bits) -> Allocation:
        """The same bits for all layers."""
        layers = dict.fromkeys(self.palettes.parameters, bits)
        return self._allocation(layers, self._damage(layers))

    def path(self) -> BitPath:
        """Choices of ever fewer bits, by what each group of layers does to the outputs."""
        most = _MOST_POSITIONS_OF_VAES if self._spec.component in VAES else _MOST_POSITIONS
        small = replace(self._spec, latent_size=_halved(self._spec.latent_size, most))
        network = load_network(small, self._folder)
        tried = damages_of_each(
            network,
            self.palettes,
            self._groups,
            _TRIED_WITH,
            example_inputs(network, small),
            lambda done, total: self._progress("groups", done, total),
        )
        return BitPath({name: self._options(name, tried[name]) for name in self._groups})

    def to_size(self, path: BitPath, size_bytes: int) -> Allocation:
        """The least damage whose weights take no more bytes.

        Raises:
            InvalidRequest: no bits make it so small.
        """
        fixed_bytes = self._weight_bytes(self._layers(path.bits(0))) - path.sizes_bits[0] // 8
        steps = path.first_within((size_bytes - fixed_bytes) * 8)
        if steps is None:
            least = self._weight_bytes(self._layers(path.bits(len(path) - 1)))
            raise InvalidRequest(
                f"no bits make this model's weights smaller than {least:,} bytes",
                hint="ask for a larger size",
            )
        layers = self._layers(path.bits(steps))
        return self._allocation(layers, self._damage(layers))

    def to_psnr(self, path: BitPath, psnr_db: float) -> Allocation:
        """The smallest whose outputs reach a PSNR.

        Raises:
            InvalidRequest: they do not, even if nothing is compressed.
        """
        allowed = 10 ** (-psnr_db / 10)
        best, steps = None, path.last_within(allowed)
        enough, too_many = -1, len(path)
        for tried in range(1, _TRIES + 1):
            layers = self._layers(path.bits(steps))
            damage = self._damage(layers)
            self._progress("choices", tried, _TRIES)
            if damage <= allowed:
                enough, best = steps, self._allocation(layers, damage)
            else:
                too_many = steps
            if enough + 1 >= too_many:
                break
            # expectations are off by about the same factor nearby
            expected = path.damages[steps]
            factor = damage / expected if expected > 0 and damage > 0 else 1.0
            steps = min(max(path.last_within(allowed / factor), enough + 1), too_many - 1)
        best = best or self.uniform(UNCOMPRESSED_BITS)
        if best.psnr_db is not None and best.psnr_db < psnr_db:
            raise InvalidRequest(
                f"uncompressed, the outputs come to {best.psnr_db} dB, not {psnr_db} dB",
                hint="ask for less, or for float32 in the recipe",
            )
        return best

    def _options(self, group: str, tried: float) -> dict[Bits, Option]:
        """Of a group that did some damage when it was tried."""
        layers = self._groups[group]
        error = sum(self.palettes.squared_error(layer, _TRIED_WITH) for layer in layers)
        options = {}
        for bits in (*self._bits, UNCOMPRESSED_BITS):
            its_error = sum(self.palettes.squared_error(layer, bits) for layer in layers)
            damage = tried * its_error / error if error > 0 else 0.0
            options[bits] = Option(
                sum(self.palettes.size_bits(layer, bits) for layer in layers),
                float(f"{damage:.{_DIGITS}g}"),
            )
        return options

    def _layers(self, bits: Mapping[str, Bits]) -> dict[str, Bits]:
        return {layer: bits[group] for group, layers in self._groups.items() for layer in layers}

    def _damage(self, layers: Mapping[str, Bits]) -> float:
        return damage_of_all(self.network, self.palettes, layers, self.inputs, self.expected)

    def _weight_bytes(self, layers: Mapping[str, Bits]) -> int:
        compressed = {self.palettes.parameters[layer] for layer in layers}
        others = sum(
            self.network.weights[name].numel()
            for name in self.network.weights
            if name not in compressed
        )
        bits = sum(self.palettes.size_bits(layer, its) for layer, its in layers.items())
        whole_bits = 16 if self._spec.precision == "float16" else 32
        return (others * whole_bits + bits) // 8

    def _allocation(self, layers: Mapping[str, Bits], damage: float) -> Allocation:
        weight_bytes = self._weight_bytes(layers)
        parameters = sum(self.network.weights[name].numel() for name in self.network.weights)
        return Allocation(
            layers,
            weight_bytes,
            round(weight_bytes * 8 / parameters, 3),
            # a figure that a target is held to is not rounded up
            math.floor(-100 * math.log10(damage)) / 10 if damage > 0 else None,
        )


def grouped(layers: Sequence[str], most: int) -> dict[str, list[str]]:
    """Layers under the beginning of their names, as long as makes no more than so many groups."""
    depth = max((layer.count(".") for layer in layers), default=0) + 1
    while True:
        groups: dict[str, list[str]] = {}
        for layer in layers:
            groups.setdefault(".".join(layer.split(".")[:depth]), []).append(layer)
        if len(groups) <= most or depth == 1:
            return groups
        depth -= 1


def _halved(size: tuple[int, int] | None, most: int) -> tuple[int, int] | None:
    """A latent size of few positions, whose sides are multiples of 8 where those given are."""
    while size and prod(size) > most and all(side % 16 == 0 for side in size):
        size = (size[0] // 2, size[1] // 2)
    return size
