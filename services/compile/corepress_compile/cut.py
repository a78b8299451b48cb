"""Where to cut a program in two: between which of its operations.

Source of the idea: ``chunk_mlprogram.py`` of apple/ml-stable-diffusion, which takes the first place
past the half; this one weighs all places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from coremltools.proto import MIL_pb2

from corepress.domain.errors import InternalError

_FLOAT_BYTES = {MIL_pb2.DataType.FLOAT16: 2, MIL_pb2.DataType.FLOAT32: 4}
_WORTH_OF_BALANCE = 0.01
"""Of the weights' bytes: so much more may be in the larger half where less then crosses."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The operations on either side, constants aside, and the variables that cross, in order."""

    before: tuple[MIL_pb2.Operation, ...]
    after: tuple[MIL_pb2.Operation, ...]
    crossing: tuple[MIL_pb2.NamedValueType, ...]


def is_constant(operation: MIL_pb2.Operation) -> bool:
    """Whether an operation gives a constant, compressed ones included."""
    kind: str = operation.type
    return kind == "const" or kind.startswith("constexpr_")


def arguments(operation: MIL_pb2.Operation) -> Iterator[str]:
    """The names that an operation takes."""
    for argument in operation.inputs.values():
        yield from (binding.name for binding in argument.arguments if binding.name)


def best_cut(block: MIL_pb2.Block, sizes_bytes: Mapping[str, int]) -> Cut:
    """The place that parts the weights' bytes best, and of about equally good ones that which the
    fewest bytes cross.

    Args:
        block: of the program.
        sizes_bytes: of the constants in the weight file, by their names.

    Raises:
        InternalError: there is no place that only arrays of floats cross.
    """
    operations = [operation for operation in block.operations if not is_constant(operation)]
    users: dict[str, list[int]] = {}
    for position, operation in enumerate(operations):
        for name in arguments(operation):
            users.setdefault(name, []).append(position)
    for name in block.outputs:
        users.setdefault(name, []).append(len(operations))
    places = len(operations) - 1  # place i is after operation i
    before, after, crossing, barred = ([0] * (places + 1) for _ in range(4))
    for name, size_bytes in sizes_bytes.items():
        if name in users:
            _add(before, min(users[name]), places, size_bytes)
            _add(after, 0, max(users[name]), size_bytes)
    for position, operation in enumerate(operations):
        for variable in operation.outputs:
            last = max(users.get(variable.name, [position]))
            _add(crossing, position, last, _size_bytes(variable))
            if variable.name in block.outputs or not _can_be_a_feature(variable):
                _add(barred, position, last, 1)
    before, after, crossing, barred = (
        list(accumulate(changes)) for changes in (before, after, crossing, barred)
    )
    possible = [place for place in range(places) if crossing[place] and not barred[place]]
    if not possible:
        raise InternalError("the program cannot be cut: at no place do only arrays of floats cross")
    larger = {place: max(before[place], after[place]) for place in possible}
    allowed = min(larger.values()) + _WORTH_OF_BALANCE * sum(sizes_bytes.values())
    best = min(
        (place for place in possible if larger[place] <= allowed),
        key=lambda place: (crossing[place], larger[place]),
    )
    return Cut(
        tuple(operations[: best + 1]),
        tuple(operations[best + 1 :]),
        tuple(
            variable
            for operation in operations[: best + 1]
            for variable in operation.outputs
            if max(users.get(variable.name, [0])) > best
        ),
    )


def _add(changes: list[int], start: int, stop: int, amount: int) -> None:
    """Note an amount at the places from ``start`` up to ``stop``."""
    if start < stop:
        changes[start] += amount
        changes[min(stop, len(changes) - 1)] -= amount


def _can_be_a_feature(variable: MIL_pb2.NamedValueType) -> bool:
    tensor = variable.type.tensorType
    return tensor.dataType in _FLOAT_BYTES and len(tensor.dimensions) > 0


def _size_bytes(variable: MIL_pb2.NamedValueType) -> int:
    tensor = variable.type.tensorType
    elements: int = prod(dimension.constant.size for dimension in tensor.dimensions)
    return elements * _FLOAT_BYTES.get(tensor.dataType, 1)
