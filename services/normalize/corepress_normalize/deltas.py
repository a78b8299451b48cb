"""What a LoRA's factors make: the change of a weight, as a matrix in float32.

A convolution's weight (outputs, inputs, height, width) counts as a matrix of (outputs, inputs x
height x width). `corepress.identify.lora.shapes` has the same formulas for shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.domain.checkpoint import AddendKind

Array = NDArray[np.float32]
Factors = Mapping[str, Array]


def delta(kind: AddendKind, factors: Factors) -> Array:
    """The change of shape (outputs, everything else) that factors make, in an array of its own."""
    return _FORMULAS[kind](factors)


def _lora(factors: Factors) -> Array:
    """B A, and with a core that of LyCORIS' ``functional/general.py``, ``rebuild_tucker``."""
    up, down = _matrix(factors["up"]), _matrix(factors["down"])
    return _tucker(up, down, factors["mid"]) if "mid" in factors else up @ down


def _loha(factors: Factors) -> Array:
    """The elementwise product of two low-rank matrices: LyCORIS' ``functional/loha.py``."""
    halves = []
    for number in ("1", "2"):
        a, b = _matrix(factors[f"w{number}_a"]), _matrix(factors[f"w{number}_b"])
        core = factors.get(f"t{number}")
        halves.append(a @ b if core is None else _tucker(a.T, b, core))
    halves[0] *= halves[1]
    return halves[0]


def _lokr(factors: Factors) -> Array:
    """The Kronecker product of two matrices: LyCORIS' ``functional/lokr.py``."""
    if "w1" in factors:
        first = _matrix(factors["w1"])
    else:
        first = _matrix(factors["w1_a"]) @ _matrix(factors["w1_b"])
    if "w2" in factors:
        second = _matrix(factors["w2"])
    else:
        a, b = _matrix(factors["w2_a"]), _matrix(factors["w2_b"])
        second = _tucker(a.T, b, factors["t2"]) if "t2" in factors else a @ b
    # a kernel's axes are innermost in both the second factor and the product
    return np.kron(first, second)


def _difference(factors: Factors) -> Array:
    (difference,) = factors.values()
    return np.array(_matrix(difference))


def _tucker(up: Array, down: Array, core: Array) -> Array:
    """Of (outputs, rank), (rank, inputs) and a core of (rank, rank, *kernel)."""
    inner = np.tensordot(core, down, axes=(1, 0))  # (rank, *kernel, inputs)
    product = np.tensordot(up, inner, axes=(1, 0))  # (outputs, *kernel, inputs)
    return _matrix(np.ascontiguousarray(np.moveaxis(product, -1, 1)))


def _matrix(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(array.shape[0] if array.ndim else 1, -1)


_FORMULAS: Mapping[AddendKind, Callable[[Factors], Array]] = {
    AddendKind.LORA: _lora,
    AddendKind.LOHA: _loha,
    AddendKind.LOKR: _lokr,
    AddendKind.DIFFERENCE: _difference,
}
