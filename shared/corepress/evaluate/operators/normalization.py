"""Normalization (``normalization.py``)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from corepress.evaluate.operators.registry import Operators

operators = Operators()


@operators.register
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@operators.register
def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    normalized = functional.layer_norm(x, x.shape[2:], eps=epsilon)
    channels = (-1, *(1,) * (x.dim() - 2))
    if gamma is not None:
        normalized = normalized * gamma.reshape(channels)
    return normalized if beta is None else normalized + beta.reshape(channels)


@operators.register
def layer_norm(
    x: Tensor,
    axes: tuple[int, ...] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    normalized = sorted(axis % x.dim() for axis in axes or range(x.dim()))
    last = range(x.dim() - len(normalized), x.dim())
    moved = x.movedim(normalized, list(last))
    result = functional.layer_norm(moved, moved.shape[last.start :], gamma, beta, epsilon)
    return result.movedim(list(last), normalized)


@operators.register
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)
