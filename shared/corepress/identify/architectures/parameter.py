"""A parameter of an architecture, and the building blocks that parameters come in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter under both of its names.

    ``name`` and ``shape`` are those of diffusers or transformers; ``original`` is the name in the
    authors' layout, without the component's prefix. ``third`` says which third of the rows of the
    original's fused tensor it is, ``transpose`` that the original has its axes swapped,
    ``swap_halves`` that it has the halves of its rows in the other order.
    """

    name: str
    original: str
    shape: tuple[int, ...]
    third: int | None = None
    transpose: bool = False
    swap_halves: bool = False

    @property
    def rows(self) -> tuple[int, int] | None:
        """The ``[start, stop)`` rows of the original's fused tensor."""
        if self.third is None:
            return None
        return self.third * self.shape[0], (self.third + 1) * self.shape[0]

    @property
    def original_shape(self) -> tuple[int, ...]:
        """The shape of the original's tensor, as a whole."""
        if self.third is not None:
            return 3 * self.shape[0], *self.shape[1:]
        return self.shape[::-1] if self.transpose else self.shape


def linear(
    name: str, original: str, outputs: int, inputs: int, *, bias: bool = True
) -> Iterator[Parameter]:
    """A fully connected layer: weight of shape (outputs, inputs), bias of shape (outputs)."""
    yield Parameter(f"{name}.weight", f"{original}.weight", (outputs, inputs))
    if bias:
        yield Parameter(f"{name}.bias", f"{original}.bias", (outputs,))


def conv(
    name: str, original: str, outputs: int, inputs: int, kernel: int = 3
) -> Iterator[Parameter]:
    """A convolution: weight of shape (outputs, inputs, kernel, kernel), bias of (outputs)."""
    yield Parameter(f"{name}.weight", f"{original}.weight", (outputs, inputs, kernel, kernel))
    yield Parameter(f"{name}.bias", f"{original}.bias", (outputs,))


def norm(name: str, original: str, channels: int) -> Iterator[Parameter]:
    """A group or layer norm: weight and bias of shape (channels)."""
    yield Parameter(f"{name}.weight", f"{original}.weight", (channels,))
    yield Parameter(f"{name}.bias", f"{original}.bias", (channels,))
