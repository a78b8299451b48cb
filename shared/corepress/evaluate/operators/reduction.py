"""Reductions (``reduction.py``)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from corepress.evaluate.operators.registry import Operators

operators = Operators()

Reduction = Callable[[Tensor, tuple[int, ...]], Tensor]
"""Reduces some axes to length 1."""


def _mean(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    # Integers have a mean, which the declared type then truncates.
    return (x if x.is_floating_point() else x.double()).mean(axes, keepdim=True)


def _product(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


def _over_axes(reduction: Reduction) -> Callable[..., Tensor]:
    def apply(x: Tensor, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
        reduced = tuple(range(x.dim())) if axes is None else axes
        if not reduced:
            return x
        result = reduction(x, reduced)
        return result if keep_dims else result.squeeze(reduced)

    return apply


for _name, _reduction in {
    "reduce_l1_norm": lambda x, axes: x.abs().sum(axes, keepdim=True),
    "reduce_l2_norm": lambda x, axes: x.square().sum(axes, keepdim=True).sqrt(),
    "reduce_log_sum": lambda x, axes: x.sum(axes, keepdim=True).log(),
    "reduce_log_sum_exp": lambda x, axes: x.logsumexp(axes, keepdim=True),
    "reduce_max": lambda x, axes: x.amax(axes, keepdim=True),
    "reduce_mean": _mean,
    "reduce_min": lambda x, axes: x.amin(axes, keepdim=True),
    "reduce_prod": _product,
    "reduce_sum": lambda x, axes: x.sum(axes, keepdim=True),
    "reduce_sum_square": lambda x, axes: x.square().sum(axes, keepdim=True),
}.items():
    operators.add(_name, _over_axes(_reduction))


@operators.register
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False) -> Tensor:
    return torch.argmax(x, axis, keep_dims)


@operators.register
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False) -> Tensor:
    return torch.argmin(x, axis, keep_dims)
