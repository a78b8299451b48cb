"""Executing one operation: arguments in, results of the declared types out."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from corepress.domain.errors import CorepressError, CorruptBundle, UnsupportedOperation
from corepress.evaluate.element_types import Arithmetic
from corepress.evaluate.operators import IMPLIED_PARAMETERS, OPERATORS
from corepress.evaluate.program import Binding, Operation, Program, Variable
from corepress.evaluate.values import Value


def check_supported(program: Program) -> None:
    """Refuse, by name, what the evaluator does not know, before anything is computed.

    Raises :class:`UnsupportedOperation` for an unknown operation, parameter or element type and
    :class:`CorruptBundle` for a missing argument.
    """
    unknown = sorted({op.kind for op in program.operations if op.kind not in OPERATORS})
    if unknown:
        raise UnsupportedOperation(
            f"the reference evaluator does not know: {', '.join(unknown)}",
            hint="verify this package with Core ML itself, on macOS",
        )
    for operation in program.operations:
        operator = OPERATORS[operation.kind]
        given = operation.arguments.keys() - IMPLIED_PARAMETERS
        if strange := sorted(given - operator.parameters.keys()):
            raise UnsupportedOperation(
                f"{operation.kind} '{operation.name}' has a parameter that the reference "
                f"evaluator does not know: {', '.join(strange)}"
            )
        if missing := sorted(operator.required - given):
            raise CorruptBundle(
                f"{operation.kind} '{operation.name}' lacks an argument: {', '.join(missing)}"
            )
    for variable in (*program.inputs, *(v for op in program.operations for v in op.outputs)):
        if variable.element is None:
            raise UnsupportedOperation(f"'{variable.name}' is no tensor of a known element type")


def execute(
    operation: Operation, resolve: Callable[[Binding], Value], arithmetic: Arithmetic
) -> tuple[Tensor, ...]:
    """Execute one operation of a program that :func:`check_supported` accepts.

    ``resolve`` gives the value of a binding. Raises :class:`CorruptBundle` where the results do
    not have the declared number and shapes.
    """
    operator = OPERATORS[operation.kind]
    where = f"{operation.kind} '{operation.name}'"
    try:
        arguments = {
            parameter: operator.parameters[parameter](tuple(resolve(b) for b in bindings))
            for parameter, bindings in operation.arguments.items()
            if parameter not in IMPLIED_PARAMETERS
        }
        outcome = operator.function(**arguments)
    except CorepressError as error:
        message = f"{where}: {error.message}"
        raise type(error)(message, hint=error.hint, path=error.path) from error
    except Exception as error:
        error.add_note(f"in {where}")
        raise
    results = outcome if isinstance(outcome, tuple) else (outcome,)
    if len(results) != len(operation.outputs):
        raise CorruptBundle(
            f"{where} gives {len(results)} results where the program declares "
            f"{len(operation.outputs)}"
        )
    return tuple(
        declared(result, variable, arithmetic)
        for result, variable in zip(results, operation.outputs, strict=True)
    )


def declared(value: Tensor, variable: Variable, arithmetic: Arithmetic) -> Tensor:
    """A value as its variable is declared; :class:`CorruptBundle` where the shape is another."""
    shape = tuple(value.shape)
    fits = len(shape) == len(variable.shape) and all(
        due in (size, None) for size, due in zip(shape, variable.shape, strict=True)
    )
    if not fits:
        raise CorruptBundle(
            f"'{variable.name}' has the shape {list(shape)} where the program declares "
            f"{list(variable.shape)}"
        )
    assert variable.element is not None, "refused by check_supported"
    return variable.element.conform(value, arithmetic)
