"""An ML program as the evaluator walks it: the operations of one function, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from corepress.domain.errors import CorruptBundle
from corepress.evaluate.element_types import ELEMENT_TYPES, ElementType

Binding: TypeAlias = Any
"""What an argument is bound to: a name (``str``) or a constant (``MIL_pb2.Value``)."""


@dataclass(frozen=True)
class Variable:
    """A named value and its declared type.

    ``element`` is None for what is no tensor of a known element type (a list, a state); an unknown
    dimension is None.
    """

    name: str
    element: ElementType | None
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Operation:
    """One operation: its type (``conv``), its name, its arguments by parameter, its results."""

    kind: str
    name: str
    arguments: Mapping[str, tuple[Binding, ...]]
    outputs: tuple[Variable, ...]

    @property
    def is_constant(self) -> bool:
        """Whether this decompresses a constant (``constexpr_lut_to_dense`` and its siblings)."""
        return self.kind.startswith("constexpr_")

    def references(self) -> Iterator[str]:
        """The names of all values it takes, once for each time it takes them."""
        for bindings in self.arguments.values():
            yield from (binding for binding in bindings if isinstance(binding, str))


@dataclass(frozen=True)
class Program:
    """The function that a model runs; ``constants`` are ``MIL_pb2.Value`` by name."""

    opset: str
    inputs: tuple[Variable, ...]
    constants: Mapping[str, Any]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]

    def literals(self) -> Iterator[Any]:
        """Every constant value, named or bound to an argument."""
        yield from self.constants.values()
        for operation in self.operations:
            for bindings in operation.arguments.values():
                yield from (binding for binding in bindings if not isinstance(binding, str))


def parse_program(specification: Any, function_name: str) -> Program:
    """Read one function of a ``MIL_pb2.Program``.

    Raises :class:`CorruptBundle` where the function or its block is missing, or where an operation
    takes a value that nothing before it gives.
    """
    if function_name not in specification.functions:
        raise CorruptBundle(f"the program has no function '{function_name}'")
    function = specification.functions[function_name]
    if function.opset not in function.block_specializations:
        raise CorruptBundle(f"the function '{function_name}' has no block for '{function.opset}'")
    block = function.block_specializations[function.opset]
    program = Program(
        opset=function.opset,
        inputs=tuple(_variable(variable) for variable in function.inputs),
        constants={
            operation.outputs[0].name: operation.attributes["val"]
            for operation in block.operations
            if operation.type == "const"
        },
        operations=tuple(
            _operation(operation) for operation in block.operations if operation.type != "const"
        ),
        outputs=tuple(block.outputs),
    )
    _check_order(program)
    return program


def _operation(specification: Any) -> Operation:
    arguments: dict[str, tuple[Binding, ...]] = {
        parameter: tuple(
            binding.name if binding.WhichOneof("binding") == "name" else binding.value
            for binding in argument.arguments
        )
        for parameter, argument in specification.inputs.items()
    }
    # Before iOS18, decompressing operations carry their arguments as attributes.
    for parameter, value in specification.attributes.items():
        if parameter != "name":
            arguments[parameter] = (value,)
    outputs = tuple(_variable(variable) for variable in specification.outputs)
    name = outputs[0].name if outputs else specification.type
    return Operation(specification.type, name, arguments, outputs)


def _variable(specification: Any) -> Variable:
    declared = specification.type
    if declared.WhichOneof("type") != "tensorType":
        return Variable(specification.name, None, ())
    return Variable(
        specification.name,
        ELEMENT_TYPES.get(declared.tensorType.dataType),
        tuple(
            dimension.constant.size if dimension.WhichOneof("dimension") == "constant" else None
            for dimension in declared.tensorType.dimensions
        ),
    )


def _check_order(program: Program) -> None:
    known = {variable.name for variable in program.inputs} | set(program.constants)
    for operation in program.operations:
        for name in operation.references():
            if name not in known:
                raise CorruptBundle(
                    f"{operation.kind} '{operation.name}' takes '{name}', which nothing before "
                    "it gives"
                )
        known.update(variable.name for variable in operation.outputs)
    for name in program.outputs:
        if name not in known:
            raise CorruptBundle(f"nothing in the program gives its output '{name}'")
