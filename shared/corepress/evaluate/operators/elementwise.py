"""Elementwise arithmetic, comparison and logic (``elementwise_unary.py``, ``…_binary.py``)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from corepress.evaluate.operators.registry import Operators

operators = Operators()


def _unary(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(x: Tensor) -> Tensor:
        return function(x)

    return apply


def _binary(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return apply


_UNARY: dict[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
for _name, _function in _UNARY.items():
    operators.add(_name, _unary(_function))

_BINARY: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "real_div": torch.div,
    "sub": torch.sub,
}
for _name, _function in _BINARY.items():
    operators.add(_name, _binary(_function))


@operators.register
def cast(x: Tensor) -> Tensor:
    # The declared type of the result does it; floats go to integers towards zero.
    return x


@operators.register
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


@operators.register
def identity(x: Tensor) -> Tensor:
    return x


@operators.register
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return (x + epsilon).reciprocal()


@operators.register
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return (x + epsilon).log()


@operators.register
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return (x + epsilon).rsqrt()


@operators.register
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


@operators.register
def threshold(x: Tensor, alpha: float) -> Tensor:
    return x.clamp(min=alpha)
