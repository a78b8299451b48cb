"""Evaluating a package: its operations in their order, each value for as long as it is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from corepress.domain.errors import CorruptBundle
from corepress.evaluate.constants import Constants
from corepress.evaluate.element_types import Arithmetic
from corepress.evaluate.execution import check_supported, declared, execute
from corepress.evaluate.package import Package
from corepress.evaluate.program import Binding, Operation
from corepress.evaluate.values import Value

Progress = Callable[[int, int], None]
"""Called after each operation with the number of operations done and their total."""


@torch.no_grad()
def evaluate(
    package: Package,
    inputs: Mapping[str, Tensor | NDArray[Any]],
    arithmetic: Arithmetic = "float32",
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Evaluate a package on the CPU; the outputs come as float32, in their declared order.

    ``inputs`` are in the declared shapes, of any type that casts to the declared one (in float32
    arithmetic a declared float16 is not rounded to). Memory holds the values that are still
    needed and the weights of the one operation that runs.

    Raises :class:`UnsupportedOperation` before anything is computed, :class:`CorruptBundle` where
    the program disagrees with itself, and :class:`ValueError` for inputs that are not the
    package's.
    """
    check_supported(package.program)
    evaluation = _Evaluation(package, arithmetic)
    evaluation.take(inputs)
    operations = [op for op in package.program.operations if not op.is_constant]
    for done, operation in enumerate(operations, start=1):
        evaluation.run(operation)
        if progress is not None:
            progress(done, len(operations))
    return {feature.name: evaluation.output(feature.name) for feature in package.outputs}


def evaluate_in_turn(
    packages: Sequence[Package],
    inputs: Mapping[str, Tensor | NDArray[Any]],
    arithmetic: Arithmetic = "float32",
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Evaluate the chunks of a model, each on the inputs and on what those before it gave.

    Returns the outputs of the last one. For all else see `evaluate`.
    """
    operations = [
        sum(not operation.is_constant for operation in package.program.operations)
        for package in packages
    ]
    known: dict[str, Tensor | NDArray[Any]] = dict(inputs)
    outputs: dict[str, Tensor] = {}
    for index, package in enumerate(packages):

        def report(done: int, _: int, before: int = sum(operations[:index])) -> None:
            if progress is not None:
                progress(before + done, sum(operations))

        taken = {feature.name: known[feature.name] for feature in package.inputs}
        outputs = evaluate(package, taken, arithmetic, report)
        known |= outputs
    return outputs


class _Evaluation:
    """The values of one evaluation, each until nothing will take it any more."""

    def __init__(self, package: Package, arithmetic: Arithmetic) -> None:
        self._program = package.program
        self._constants = Constants(package, arithmetic)
        self._arithmetic = arithmetic
        self._values: dict[str, Tensor] = {}
        self._uses_left = Counter(package.program.outputs)
        for operation in package.program.operations:
            self._uses_left.update(operation.references())

    def take(self, inputs: Mapping[str, Tensor | NDArray[Any]]) -> None:
        expected = [variable.name for variable in self._program.inputs]
        if sorted(inputs) != sorted(expected):
            raise ValueError(f"the package takes {expected}, not {list(inputs)}")
        for variable in self._program.inputs:
            given = torch.as_tensor(inputs[variable.name])
            try:
                self._values[variable.name] = declared(given, variable, self._arithmetic)
            except CorruptBundle as error:
                raise ValueError(error.message) from error

    def run(self, operation: Operation) -> None:
        results = execute(operation, self._resolve, self._arithmetic)
        for variable, result in zip(operation.outputs, results, strict=True):
            if self._uses_left[variable.name]:
                self._values[variable.name] = result
        for name in operation.references():
            self._uses_left[name] -= 1
            if not self._uses_left[name]:
                self._values.pop(name, None)

    def output(self, name: str) -> Tensor:
        value = self._resolve(name)
        assert isinstance(value, Tensor), "declared as an array"
        return value.float()

    def _resolve(self, binding: Binding) -> Value:
        if isinstance(binding, str) and binding in self._values:
            return self._values[binding]
        return self._constants.resolve(binding)
