"""What matrix a LoRA's factors make, by shapes alone; `corepress_normalize.deltas` computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from corepress.domain.checkpoint import AddendKind

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Matrix = tuple[int, int]

_LARGEST_RANK = 1024
"""Small layers may have a greater rank than they can use."""


def matrix_of(kind: AddendKind, shapes: Shapes) -> Matrix | None:
    """The rows and columns that factors of these shapes make, None where they don't fit together.

    A convolution counts as a matrix of (outputs, inputs × kernel).

    Raises:
        KeyError: a factor is missing.
    """
    return _MATRICES[kind](shapes)


def rank_of(kind: AddendKind, shapes: Shapes) -> int | None:
    """What alpha is divided by, None for full matrices, which alpha does not touch."""
    if kind is AddendKind.DIFFERENCE:
        return None
    inner = {
        AddendKind.LORA: ("down",),
        AddendKind.LOHA: ("w1_b",),
        AddendKind.LOKR: ("w2_b", "w1_b"),
    }[kind]
    return next((flat(shapes[name])[0] for name in inner if name in shapes), None)


def flat(shape: Shape) -> Matrix:
    """A tensor's shape with all axes but the first as one."""
    return (shape[0], prod(shape[1:])) if shape else (1, 1)


def _lora(shapes: Shapes) -> Matrix | None:
    up, down = flat(shapes["up"]), flat(shapes["down"])
    if "mid" not in shapes:
        return _product(up, down)
    return _tucker(up, down, shapes["mid"])


def _loha(shapes: Shapes) -> Matrix | None:
    halves = []
    for number in ("1", "2"):
        a, b = flat(shapes[f"w{number}_a"]), flat(shapes[f"w{number}_b"])
        core = shapes.get(f"t{number}")
        halves.append(_product(a, b) if core is None else _tucker(a[::-1], b, core))
    return halves[0] if halves[0] == halves[1] else None


def _lokr(shapes: Shapes) -> Matrix | None:
    first = flat(shapes["w1"]) if "w1" in shapes else _low_rank(shapes, "w1")
    if "w2" in shapes:
        second: Matrix | None = flat(shapes["w2"])
    elif "t2" in shapes:
        a, b = flat(shapes["w2_a"]), flat(shapes["w2_b"])
        second = _tucker(a[::-1], b, shapes["t2"])
    else:
        second = _low_rank(shapes, "w2")
    if first is None or second is None:
        return None
    return first[0] * second[0], first[1] * second[1]


def _difference(shapes: Shapes) -> Matrix | None:
    (shape,) = shapes.values()
    return flat(shape)


def _low_rank(shapes: Shapes, name: str) -> Matrix | None:
    return _product(flat(shapes[f"{name}_a"]), flat(shapes[f"{name}_b"]))


def _product(up: Matrix, down: Matrix) -> Matrix | None:
    """Of (outputs, rank) and (rank, inputs)."""
    outputs, inputs = up[0], down[1]
    return (outputs, inputs) if up[1] == down[0] in _ranks(outputs, inputs) else None


def _tucker(up: Matrix, down: Matrix, core: Shape) -> Matrix | None:
    """Of (outputs, rank), (rank, inputs) and a core of (rank, rank, *kernel)."""
    outputs, inputs = up[0], down[1] * prod(core[2:])
    if core[:2] != (up[1], down[0]) or not all(r in _ranks(outputs, inputs) for r in core[:2]):
        return None
    return outputs, inputs


def _ranks(outputs: int, inputs: int) -> range:
    """The ranks that are not absurd, so that factors need no more memory than a weight does."""
    return range(1, max(_LARGEST_RANK, min(outputs, inputs)) + 1)


_MATRICES: Mapping[AddendKind, Callable[[Shapes], Matrix | None]] = {
    AddendKind.LORA: _lora,
    AddendKind.LOHA: _loha,
    AddendKind.LOKR: _lokr,
    AddendKind.DIFFERENCE: _difference,
}
