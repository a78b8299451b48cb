"""How an operation becomes a torch function: one plain function each, registered by its name.

A function's parameters are the operation's, by name; their annotations say what an argument is
given as (``Tensor`` as it is, ``int`` or ``tuple[int, ...]`` as Python numbers, and so on). It
computes with whatever types its arguments are held in: rounding and casting to the declared type
of the result is the evaluator's business.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from torch import Tensor

from corepress.domain.errors import CorruptBundle
from corepress.evaluate.values import Value

IMPLIED_PARAMETERS = frozenset(
    {
        # The declared type of the result says the same.
        "dtype",
        "output_dtype",
        "output_indices_dtype",
        # An index out of range is always an error here.
        "validate_indices",
    }
)

Function = TypeVar("Function", bound=Callable[..., Any])
Converter = Callable[[tuple[Value, ...]], Any]


@dataclass(frozen=True)
class Operator:
    """An operation's function, how it takes its arguments, and which it cannot do without."""

    function: Callable[..., Tensor | tuple[Tensor, ...]]
    parameters: Mapping[str, Converter]
    required: frozenset[str]


class Operators(dict[str, Operator]):
    """The operations of one module, by name."""

    def register(self, function: Function) -> Function:
        """Register a function under its own name."""
        self.add(function.__name__, function)
        return function

    def add(self, name: str, function: Callable[..., Any]) -> None:
        """Register a function under the name of its operation."""
        hints = get_type_hints(function)
        parameters = inspect.signature(function).parameters
        self[name] = Operator(
            function,
            {parameter: _converter(hints[parameter]) for parameter in parameters},
            frozenset(
                parameter
                for parameter, details in parameters.items()
                if details.default is inspect.Parameter.empty
            ),
        )


def _converter(hint: Any) -> Converter:
    alternatives = [kind for kind in get_args(hint) if kind is not type(None)]
    # ``X | None``: an argument that is given at all is an X.
    return _CONVERTERS.get(hint) or _CONVERTERS[alternatives[0]]


def _tensors(values: tuple[Value, ...]) -> tuple[Tensor, ...]:
    for value in values:
        if not isinstance(value, Tensor):
            raise CorruptBundle(f"an argument is {value!r} where a tensor is due")
    return values  # type: ignore[return-value]  # checked above


def _tensor(values: tuple[Value, ...]) -> Tensor:
    tensors = _tensors(values)
    if len(tensors) != 1:
        raise CorruptBundle(f"an argument is {len(tensors)} tensors where one is due")
    return tensors[0]


def _text(values: tuple[Value, ...]) -> str:
    if len(values) != 1 or not isinstance(values[0], str):
        raise CorruptBundle(f"an argument is {values!r} where a string is due")
    return values[0]


def _numbers(values: tuple[Value, ...]) -> tuple[Any, ...]:
    return tuple(number for tensor in _tensors(values) for number in tensor.reshape(-1).tolist())


_CONVERTERS: dict[Any, Converter] = {
    Tensor: _tensor,
    int: lambda values: int(_tensor(values).item()),
    float: lambda values: float(_tensor(values).item()),
    bool: lambda values: bool(_tensor(values).item()),
    str: _text,
    tuple[int, ...]: _numbers,
    tuple[bool, ...]: _numbers,
    tuple[Tensor, ...]: _tensors,
}
