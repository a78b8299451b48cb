"""Elementwise operations, activations and reductions against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from evaluate_cases import Case, assert_evaluates, constant, uncovered, weight
from torch import Tensor
from torch.nn import functional

from corepress.evaluate.operators import activation, elementwise, reduction


def unary(name: str, function: Callable[[Tensor], Tensor], *, positive: bool = False) -> Case:
    return Case(name, lambda x: getattr(Builder, name)(x=x), function, positive=positive)


def binary(name: str, function: Callable[[Tensor, Tensor], Tensor], **options: Any) -> Case:
    def build(x: Any, y: Any) -> Any:
        return getattr(Builder, name)(x=x, y=y)

    return Case(name, build, function, shapes=((2, 3, 4), (3, 1)), **options)


def compared(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> Case:
    """Comparisons of values that are equal now and then, as numbers."""

    def build(x: Any, y: Any) -> Any:
        return Builder.cast(
            x=getattr(Builder, name)(x=Builder.round(x=x), y=Builder.round(x=y)), dtype="fp32"
        )

    def expected(x: Tensor, y: Tensor) -> Tensor:
        return function(x.round(), y.round()).float()

    return Case(name, build, expected, shapes=((2, 3, 4), (2, 3, 4)))


def logical(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> Case:
    def build(x: Any, y: Any) -> Any:
        result = getattr(Builder, name)(
            x=Builder.greater(x=x, y=0.0), y=Builder.greater(x=y, y=0.0)
        )
        return Builder.cast(x=result, dtype="fp32")

    return Case(
        name, build, lambda x, y: function(x > 0, y > 0).float(), shapes=((2, 3, 4), (2, 3, 4))
    )


def reduced(name: str, function: Callable[[Tensor], Tensor], *, positive: bool = False) -> Case:
    """``function`` reduces the axes 0 and 2 and drops them."""
    return Case(
        name, lambda x: getattr(Builder, name)(x=x, axes=[0, -1]), function, positive=positive
    )


CASES = [
    unary("abs", torch.abs),
    Case("acos", lambda x: Builder.acos(x=Builder.tanh(x=x)), lambda x: x.tanh().acos()),
    Case("asin", lambda x: Builder.asin(x=Builder.tanh(x=x)), lambda x: x.tanh().asin()),
    unary("atan", torch.atan),
    Case(
        "atanh",
        lambda x: Builder.atanh(x=Builder.mul(x=Builder.tanh(x=x), y=0.5)),
        lambda x: (x.tanh() * 0.5).atanh(),
    ),
    unary("ceil", torch.ceil),
    unary("cos", torch.cos),
    unary("cosh", torch.cosh),
    unary("erf", torch.erf),
    unary("exp", torch.exp),
    unary("exp2", torch.exp2),
    unary("floor", torch.floor),
    unary("round", torch.round),
    unary("sign", torch.sign),
    unary("sin", torch.sin),
    unary("sinh", torch.sinh),
    unary("sqrt", torch.sqrt, positive=True),
    unary("square", torch.square),
    unary("tan", torch.tan),
    unary("tanh", torch.tanh),
    unary("identity", lambda x: x),
    unary("inverse", lambda x: 1 / (x + 1e-4), positive=True),
    unary("log", torch.log, positive=True),
    unary("rsqrt", lambda x: 1 / x.sqrt(), positive=True),
    Case(
        "rsqrt",
        lambda x: Builder.rsqrt(x=x, epsilon=0.5),
        lambda x: (x + 0.5) ** -0.5,
        positive=True,
    ),
    Case("clip", lambda x: Builder.clip(x=x, alpha=-0.5, beta=0.3), lambda x: x.clamp(-0.5, 0.3)),
    Case("threshold", lambda x: Builder.threshold(x=x, alpha=0.2), lambda x: x.clamp(min=0.2)),
    Case(
        "logical_not",
        lambda x: Builder.cast(x=Builder.logical_not(x=Builder.greater(x=x, y=0.0)), dtype="fp32"),
        lambda x: (x <= 0).float(),
    ),
    Case(
        "select",
        lambda x, y: Builder.select(cond=Builder.greater(x=x, y=y), a=x, b=Builder.square(x=y)),
        lambda x, y: torch.where(x > y, x, y * y),
        shapes=((2, 3, 4), (2, 3, 4)),
    ),
    Case(
        "cast",
        lambda x: Builder.cast(
            x=Builder.cast(x=Builder.mul(x=x, y=3.0), dtype="int32"), dtype="fp32"
        ),
        lambda x: (x * 3).trunc(),
        note="towards-zero",
    ),
    Case(
        "cast",
        lambda x: Builder.cast(
            x=Builder.cast(x=Builder.mul(x=x, y=70000.0), dtype="uint16"), dtype="fp32"
        ),
        lambda x: torch.from_numpy((x * 70000).int().numpy().astype(np.uint16).astype(np.float32)),
        positive=True,
        note="uint16-wraps",
    ),
    binary("add", torch.add),
    binary("sub", torch.sub),
    binary("mul", torch.mul),
    binary("real_div", torch.div),
    binary("floor_div", lambda x, y: (x / y).floor(), positive=True),
    binary("mod", lambda x, y: torch.from_numpy(np.mod(x.numpy(), y.numpy()))),
    binary("pow", torch.pow, positive=True),
    binary("maximum", torch.maximum),
    binary("minimum", torch.minimum),
    compared("equal", torch.eq),
    compared("not_equal", torch.ne),
    compared("greater", torch.gt),
    compared("greater_equal", torch.ge),
    compared("less", torch.lt),
    compared("less_equal", torch.le),
    logical("logical_and", torch.logical_and),
    logical("logical_or", torch.logical_or),
    logical("logical_xor", torch.logical_xor),
    unary("relu", functional.relu),
    Case(
        "relu6", lambda x: Builder.relu6(x=Builder.mul(x=x, y=9.0)), lambda x: (x * 9).clamp(0, 6)
    ),
    unary("sigmoid", torch.sigmoid),
    unary("silu", functional.silu),
    unary("softplus", functional.softplus),
    unary("softsign", lambda x: x / (1 + x.abs())),
    Case(
        "clamped_relu",
        lambda x: Builder.clamped_relu(x=x, alpha=0.1, beta=0.7),
        lambda x: torch.where(x >= 0, x, 0.1 * x).clamp(max=0.7),
    ),
    Case("elu", lambda x: Builder.elu(x=x, alpha=0.3), lambda x: functional.elu(x, 0.3)),
    Case(
        "leaky_relu",
        lambda x: Builder.leaky_relu(x=x, alpha=0.3),
        lambda x: functional.leaky_relu(x, 0.3),
    ),
    Case(
        "linear_activation",
        lambda x: Builder.linear_activation(x=x, alpha=0.3, beta=0.2),
        lambda x: 0.3 * x + 0.2,
    ),
    Case(
        "prelu",
        lambda x: Builder.prelu(x=x, alpha=constant(3)),
        lambda x: functional.prelu(x, weight(3)),
        shapes=((2, 3, 4, 5),),
    ),
    Case(
        "scaled_tanh",
        lambda x: Builder.scaled_tanh(x=x, alpha=0.3, beta=2.0),
        lambda x: 0.3 * (2 * x).tanh(),
    ),
    Case(
        "sigmoid_hard",
        lambda x: Builder.sigmoid_hard(x=x, alpha=0.3, beta=0.2),
        lambda x: (0.3 * x + 0.2).clamp(0, 1),
    ),
    Case(
        "softplus_parametric",
        lambda x: Builder.softplus_parametric(x=x, alpha=constant(3), beta=constant(3, seed=8)),
        lambda x: weight(3)[:, None] * (1 + (weight(3, seed=8)[:, None] * x).exp()).log(),
    ),
    Case(
        "thresholded_relu",
        lambda x: Builder.thresholded_relu(x=x, alpha=0.4),
        lambda x: torch.where(x >= 0.4, x, 0),
    ),
    Case("gelu", lambda x: Builder.gelu(x=x, mode="EXACT"), functional.gelu, note="exact"),
    Case(
        "gelu",
        lambda x: Builder.gelu(x=x, mode="TANH_APPROXIMATION"),
        lambda x: functional.gelu(x, approximate="tanh"),
        note="tanh",
    ),
    Case(
        "gelu",
        lambda x: Builder.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
        lambda x: x * (1.702 * x).sigmoid(),
        note="sigmoid",
    ),
    Case("softmax", lambda x: Builder.softmax(x=x, axis=1), lambda x: x.softmax(1)),
    reduced("reduce_l1_norm", lambda x: x.abs().sum((0, 2))),
    reduced("reduce_l2_norm", lambda x: x.norm(dim=(0, 2))),
    reduced("reduce_log_sum", lambda x: x.sum((0, 2)).log(), positive=True),
    reduced("reduce_log_sum_exp", lambda x: x.exp().sum((0, 2)).log()),
    reduced("reduce_max", lambda x: x.amax((0, 2))),
    reduced("reduce_mean", lambda x: x.mean((0, 2))),
    reduced("reduce_min", lambda x: x.amin((0, 2))),
    reduced("reduce_prod", lambda x: x.movedim(1, 0).reshape(3, 8).prod(1)),
    reduced("reduce_sum", lambda x: x.sum((0, 2))),
    reduced("reduce_sum_square", lambda x: x.square().sum((0, 2))),
    Case(
        "reduce_mean",
        lambda x: Builder.reduce_mean(x=x, axes=[1], keep_dims=True),
        lambda x: x.mean(1, keepdim=True),
        note="keep-dims",
    ),
    Case("reduce_sum", lambda x: Builder.reduce_sum(x=x), lambda x: x.sum(), note="all-axes"),
    Case(
        "reduce_argmax",
        lambda x: Builder.reduce_argmax(x=x, axis=1, keep_dims=True),
        lambda x: x.argmax(1, keepdim=True),
    ),
    Case("reduce_argmin", lambda x: Builder.reduce_argmin(x=x, axis=-1), lambda x: x.argmin(-1)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation_gives_what_torch_gives(case: Case, tmp_path: Path) -> None:
    assert_evaluates(case, tmp_path / "model.mlpackage")


def test_every_operation_has_a_case() -> None:
    assert not uncovered(CASES, elementwise, activation, reduction)
