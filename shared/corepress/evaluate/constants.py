"""The constants of a package: decoded one at a time, when something asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from corepress.evaluate.element_types import Arithmetic
from corepress.evaluate.execution import check_supported, execute
from corepress.evaluate.package import Package
from corepress.evaluate.program import Binding, Operation, Program
from corepress.evaluate.values import Value, decode, tensor_type


class Constants:
    """The named constants of a program, compressed ones included; nothing is kept."""

    def __init__(self, package: Package, arithmetic: Arithmetic) -> None:
        self._folder = package.folder
        self._literals = package.program.constants
        self._decompressions: dict[str, tuple[Operation, int]] = {
            variable.name: (operation, position)
            for operation in package.program.operations
            if operation.is_constant
            for position, variable in enumerate(operation.outputs)
        }
        self._arithmetic = arithmetic

    def resolve(self, binding: Binding) -> Value:
        """Decode what a name or a literal stands for."""
        if not isinstance(binding, str):
            return decode(binding, self._folder)
        if binding in self._literals:
            return decode(self._literals[binding], self._folder)
        operation, position = self._decompressions[binding]
        return execute(operation, self.resolve, self._arithmetic)[position]


class StoredWeights(Mapping[str, Tensor]):
    """Weights by their name in the program; each access decodes one anew, into float32."""

    def __init__(self, package: Package) -> None:
        check_supported(package.program)
        self._constants = Constants(package, "float32")
        self._names = dict.fromkeys(_weight_names(package.program))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        weight = self._constants.resolve(name)
        assert isinstance(weight, Tensor), "a weight is a float tensor by its declared type"
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def stored_weights(package: Package) -> Mapping[str, Tensor]:
    """The float tensors that a package's operations take as constants, decompressed.

    Keyed by their name in the program (``p_conv_in_weight_to_fp16``), in its order; values are
    float32 as :func:`~corepress.evaluate.evaluate` uses them. Raises
    :class:`UnsupportedOperation` as ``evaluate`` does.
    """
    return StoredWeights(package)


def _weight_names(program: Program) -> Iterator[str]:
    elements = {
        name: tensor_type(value)
        for name, value in program.constants.items()
        if value.type.WhichOneof("type") == "tensorType"
    } | {
        variable.name: (variable.element, variable.shape)
        for operation in program.operations
        if operation.is_constant
        for variable in operation.outputs
    }
    for operation in program.operations:
        if operation.is_constant:
            continue
        for name in operation.references():
            element, shape = elements.get(name, (None, ()))
            if element is not None and element.held.is_floating_point and shape:
                yield name
