"""Compressed constants (iOS16's ``constexpr_ops.py``, iOS18's ``compression.py``).

Names are shared by both generations: iOS16 has flat packed indices and a ``shape``, iOS18 has
indices and masks in shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corepress.evaluate.bits import unpack
from corepress.evaluate.operators.registry import Operators

operators = Operators()


@operators.register
def constexpr_affine_dequantize(
    quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int
) -> Tensor:
    along_axis = [1] * quantized_data.dim()
    along_axis[axis] = -1
    shifted = quantized_data.float() - zero_point.float().reshape(along_axis)
    return shifted * scale.reshape(along_axis)


@operators.register
def constexpr_blockwise_shift_scale(
    data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> Tensor:
    blocks = _blocks(data.float(), scale.shape)
    if offset is not None:
        blocks = blocks - _per_block(offset.float())
    return (blocks * _per_block(scale)).reshape(data.shape)


@operators.register
def constexpr_cast(source_val: Tensor) -> Tensor:
    return source_val


@operators.register
def constexpr_lut_to_dense(
    indices: Tensor,
    lut: Tensor,
    shape: tuple[int, ...] | None = None,
    vector_axis: int | None = None,
) -> Tensor:
    if shape is not None:
        bits = (len(lut) - 1).bit_length()
        count = torch.Size(shape).numel()
        unpacked = torch.from_numpy(unpack(indices.numpy(), bits, count))
        return lut.index_select(0, unpacked.int()).reshape(shape)
    groups, (palette, vector) = lut.shape[:-2], lut.shape[-2:]
    first = torch.arange(groups.numel(), dtype=torch.int32).reshape(groups) * palette
    entries = _blocks(indices.int(), groups) + _per_block(first)
    dense = lut.reshape(-1, vector).index_select(0, entries.reshape(-1))
    if vector_axis is None:
        return dense.reshape(indices.shape)
    axis = vector_axis % indices.dim()
    dense = dense.reshape(*indices.shape, vector).movedim(-1, axis + 1)
    return dense.flatten(axis, axis + 1)


@operators.register
def constexpr_lut_to_sparse(
    indices_mask: Tensor,
    indices_nonzero_data: Tensor,
    lut: Tensor,
    vector_axis: int | None = None,
) -> tuple[Tensor, Tensor]:
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    dense = constexpr_lut_to_dense(indices, lut, vector_axis=vector_axis)
    mask = indices_mask
    if vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, dense[mask.bool()]


@operators.register
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    data = constexpr_sparse_to_dense(nonzero_data, data_mask)
    return data_mask, constexpr_blockwise_shift_scale(data, scale, offset)[data_mask.bool()]


@operators.register
def constexpr_sparse_to_dense(
    nonzero_data: Tensor, mask: Tensor, shape: tuple[int, ...] | None = None
) -> Tensor:
    if shape is not None:
        count = torch.Size(shape).numel()
        mask = torch.from_numpy(unpack(mask.numpy(), 1, count)).reshape(shape)
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask.bool()] = nonzero_data
    return dense


def _blocks(data: Tensor, counts: torch.Size) -> Tensor:
    """Split every axis into (blocks, elements of a block); ``counts`` says how many blocks."""
    shape = [
        n for size, count in zip(data.shape, counts, strict=True) for n in (count, size // count)
    ]
    return data.reshape(shape)


def _per_block(values: Tensor) -> Tensor:
    """One value per block, to meet the elements of :func:`_blocks`."""
    return values.reshape([n for count in values.shape for n in (count, 1)])
