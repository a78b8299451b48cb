"""Values made from numbers and shapes (``tensor_operation.py``)."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.evaluate.operators.registry import Operators

operators = Operators()


@operators.register
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    below = torch.arange(x.shape[-2])[:, None] - torch.arange(x.shape[-1])
    outside = torch.zeros_like(below, dtype=torch.bool)
    if lower >= 0:
        outside |= below > lower
    if upper >= 0:
        outside |= -below > upper
    return x.masked_fill(outside, 0)


@operators.register
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    forward = x.flip(axis) if reverse else x
    total = forward.cumsum(axis)
    if exclusive:
        total = total - forward
    return total.flip(axis) if reverse else total


@operators.register
def fill(shape: tuple[int, ...], value: Tensor | None = None) -> Tensor:
    return torch.zeros(shape) if value is None else value.expand(shape)


@operators.register
def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    return fill(tuple(ref_tensor.shape), value)


@operators.register
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: float = 1,
    off_value: float = 0,
) -> Tensor:
    position = axis % (indices.dim() + 1)
    classes = torch.arange(one_hot_vector_size)
    classes = classes.reshape(-1, *(1,) * (indices.dim() - position))
    return torch.where(indices.unsqueeze(position) == classes, on_value, off_value)


@operators.register
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item())


@operators.register
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape)
