"""Slices, gathers and scatters (``tensor_transformation.py``, ``scatter_gather.py``)."""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.domain.errors import CorruptBundle, UnsupportedOperation
from corepress.evaluate.operators.registry import Operators

operators = Operators()

_SCATTER_REDUCTIONS = {
    "add": "sum",
    "sub": "sum",
    "mul": "prod",
    "div": "prod",
    "max": "amax",
    "min": "amin",
}


@operators.register
def slice_by_index(
    x: Tensor,
    *,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    spans = _spans(
        x.shape,
        begin=_unless(begin, begin_mask),
        end=_unless(end, end_mask),
        stride=stride,
        alone=squeeze_mask,
    )
    # torch slices forwards only.
    backwards = [axis for axis, span in enumerate(spans) if span.step < 0]
    forwards = [span[::-1] if span.step < 0 else span for span in spans]
    result = x[tuple(slice(span.start, span.stop, span.step) for span in forwards)]
    result = result.flip(backwards) if backwards else result
    squeezed = tuple(axis for axis, alone in enumerate(squeeze_mask or ()) if alone)
    return result.squeeze(squeezed)


@operators.register
def slice_by_size(x: Tensor, begin: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        start = first % x.shape[axis] if first < 0 else first
        x = x.narrow(axis, start, x.shape[axis] - start if count == -1 else count)
    return x


@operators.register
def slice_update(
    x: Tensor,
    update: Tensor,
    *,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    spans = _spans(
        x.shape,
        begin=_unless(begin, begin_mask),
        end=_unless(end, end_mask),
        stride=stride,
        alone=squeeze_mask,
    )
    if any(span.step < 0 for span in spans):
        raise UnsupportedOperation("slice_update with a negative stride is not supported")
    result = x.clone()
    target = result[tuple(slice(span.start, span.stop, span.step) for span in spans)]
    target.copy_(update.reshape(target.shape))
    return result


def _unless(bounds: tuple[int, ...], mask: tuple[bool, ...] | None) -> list[int | None]:
    """The bounds, without those that the mask says to ignore."""
    ignored = mask or (False,) * len(bounds)
    return [None if ignore else bound for bound, ignore in zip(bounds, ignored, strict=True)]


def _spans(
    shape: torch.Size,
    *,
    begin: list[int | None],
    end: list[int | None],
    stride: tuple[int, ...] | None,
    alone: tuple[bool, ...] | None,
) -> list[range]:
    """The positions of each axis, as ``solve_slice_by_index_slice`` in _utils.py has them.

    ``alone`` axes have only the position where they begin.
    """
    spans = []
    for axis, size in enumerate(shape):
        span = range(size)[begin[axis] : end[axis] : stride[axis] if stride else 1]
        if alone and alone[axis]:
            only = range(size)[begin[axis] or 0]
            span = range(only, only + 1)
        spans.append(span)
    return spans


@operators.register
def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0) -> Tensor:
    axis %= x.dim()
    if batch_dims > 0:
        rows = zip(x.unbind(0), indices.unbind(0), strict=True)
        return torch.stack([gather(row, index, axis - 1, batch_dims - 1) for row, index in rows])
    positions = _positive(indices, x.shape[axis])
    gathered = x.index_select(axis, positions.reshape(-1))
    return gathered.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operators.register
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    return x.gather(axis, _positive(indices, x.shape[axis]))


@operators.register
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0) -> Tensor:
    batch = [
        torch.arange(x.shape[axis]).reshape(-1, *(1,) * (indices.dim() - 2 - axis))
        for axis in range(batch_dims)
    ]
    return x[(*batch, *indices.long().unbind(-1))]


@operators.register
def non_zero(x: Tensor) -> Tensor:
    return x.nonzero()


@operators.register
def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add"
) -> Tensor:
    axis %= data.dim()
    positions = indices.reshape(-1, *(1,) * (data.dim() - axis - 1)).expand(updates.shape)
    return scatter_along_axis(data, positions, updates, axis, mode)


@operators.register
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add"
) -> Tensor:
    positions = _positive(indices, data.shape[axis])
    match mode:
        case "update":
            return data.scatter(axis, positions, updates)
        case "sub":
            updates = -updates
        case "div":
            updates = updates.reciprocal()
    if mode not in _SCATTER_REDUCTIONS:
        raise CorruptBundle(f"scatter has no mode '{mode}'")
    return data.scatter_reduce(axis, positions, updates, _SCATTER_REDUCTIONS[mode])


@operators.register
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add") -> Tensor:
    # Each index names a row of data flattened over the indexed axes.
    depth = indices.shape[-1]
    rows = data.reshape(-1, data.shape[depth:].numel())
    row = torch.zeros(indices.shape[:-1].numel(), dtype=torch.long)
    for size, positions in zip(data.shape, indices.reshape(-1, depth).unbind(-1), strict=False):
        row = row * size + _positive(positions, size)
    updated = scatter(rows, row, updates.reshape(len(row), -1), 0, mode)
    return updated.reshape(data.shape)


def _positive(indices: Tensor, size: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)
