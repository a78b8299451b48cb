"""Rearranging elements (``tensor_transformation.py``, ``tensor_operation.py``)."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.domain.errors import CorruptBundle
from corepress.evaluate.operators.registry import Operators

operators = Operators()


@operators.register
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    return x.argsort(dim=axis, descending=not ascending, stable=True)


@operators.register
def concat(values: tuple[Tensor, ...], axis: int, interleave: bool = False) -> Tensor:
    if interleave:
        position = axis % values[0].dim()
        return torch.stack(values, position + 1).flatten(position, position + 1)
    return torch.cat([value if value.dim() else value.reshape(1) for value in values], axis)


@operators.register
def expand_dims(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operators.register
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    position = axis + x.dim() if axis < 0 else axis
    return x.reshape(x.shape[:position].numel(), -1)


@operators.register
def pad(x: Tensor, pad: tuple[int, ...], mode: str = "constant", constant_val: float = 0) -> Tensor:
    first = x.dim() - len(pad) // 2
    if mode == "constant":
        shape, inside = list(x.shape), [slice(None)] * x.dim()
        for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), first):
            shape[axis] += before + after
            inside[axis] = slice(before, before + x.shape[axis])
        padded = x.new_full(shape, constant_val)
        padded[tuple(inside)] = x
        return padded
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), first):
        x = x.index_select(axis, _source(mode, before, x.shape[axis], after))
    return x


def _source(mode: str, before: int, size: int, after: int) -> Tensor:
    """The position in an axis that each position of its padded form repeats."""
    positions = torch.arange(-before, size + after)
    match mode:
        case "replicate":
            return positions.clamp(0, size - 1)
        case "reflect":
            return (size - 1) - ((size - 1) - positions.abs()).abs()
    raise CorruptBundle(f"pad has no mode '{mode}'")


@operators.register
def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    # A 0 is the size that stands as far from the right in x (iOS17; earlier only in equal ranks).
    sizes = (1,) * (len(shape) - x.dim()) + tuple(x.shape)[max(0, x.dim() - len(shape)) :]
    return x.reshape([size or own for size, own in zip(shape, sizes, strict=True)])


@operators.register
def reshape_like(
    x: Tensor,
    ref_tensors: tuple[Tensor, ...],
    begins: tuple[int, ...],
    ends: tuple[int, ...],
    end_masks: tuple[bool, ...],
) -> Tensor:
    shape: list[int] = []
    for tensor, begin, end, to_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += tensor.shape[begin : None if to_end else end]
    return x.reshape(shape)


@operators.register
def reverse(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    return x.flip(tuple(range(x.dim())) if axes is None else axes)


@operators.register
def split(
    x: Tensor,
    axis: int,
    num_splits: int | None = None,
    split_sizes: tuple[int, ...] | None = None,
) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return torch.split_with_sizes(x, split_sizes, axis)
    if num_splits is None:
        raise CorruptBundle("split has neither a number nor sizes")
    return x.tensor_split(num_splits, axis)


@operators.register
def squeeze(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(axes)


@operators.register
def stack(values: tuple[Tensor, ...], axis: int) -> Tensor:
    return torch.stack(values, axis)


@operators.register
def tile(x: Tensor, reps: tuple[int, ...]) -> Tensor:
    return x.repeat(reps)


@operators.register
def topk(
    x: Tensor,
    *,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
) -> tuple[Tensor, ...]:
    found = x.topk(x.shape[axis] if k == -1 else k, axis, largest=not ascending, sorted=sort)
    return (found.values, found.indices) if return_indices else (found.values,)


@operators.register
def transpose(x: Tensor, perm: tuple[int, ...]) -> Tensor:
    return x.permute(perm)
