"""How a weight is stored: as it is, by a palette, or as integers with scales.

A stored constant is an operation of the program with its arguments: ``const``, or one of the
``constexpr_`` operations, which have two generations. Source: coremltools' ``constexpr_ops.py`` of
iOS16 and ``compression.py`` of iOS18.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from coremltools.proto import MIL_pb2
from numpy.typing import NDArray
from torch import Tensor

from corepress.domain.errors import NonFiniteWeights
from corepress.domain.recipe import Compression, Precision
from corepress.evaluate.bits import pack
from corepress_compile.palette import palettize

_ELEMENTS = {
    np.dtype(np.float16): MIL_pb2.DataType.FLOAT16,
    np.dtype(np.float32): MIL_pb2.DataType.FLOAT32,
    np.dtype(np.uint8): MIL_pb2.DataType.UINT8,
    np.dtype(np.int8): MIL_pb2.DataType.INT8,
    np.dtype(np.uint32): MIL_pb2.DataType.UINT32,
    np.dtype(np.int32): MIL_pb2.DataType.INT32,
}
_INDICES = {bits: MIL_pb2.DataType.Value(f"UINT{bits}") for bits in (1, 2, 3, 4, 6, 8)}
_INTEGERS = {4: MIL_pb2.DataType.INT4, 8: MIL_pb2.DataType.INT8}


@dataclass(frozen=True, slots=True)
class Stored:
    """An array, and the type of its elements where that has less than 8 bits."""

    data: NDArray[np.generic]
    packed_as: int | None = None

    @property
    def element(self) -> int:
        """The number of its elements' type in ``MIL_pb2.DataType``."""
        return _ELEMENTS[self.data.dtype] if self.packed_as is None else self.packed_as


@dataclass(frozen=True, slots=True)
class Encoded:
    """A constant as it is stored: the operation that gives it, and its arguments."""

    operation: str
    arguments: Mapping[str, Stored]


def encode(
    name: str,
    weight: Tensor,
    precision: Precision,
    compression: Compression | None,
    modern: bool,
) -> Encoded:
    """A weight as it is stored.

    Args:
        name: of the parameter, for messages.
        weight: in float32, in the constant's shape.
        precision: of the constant; the weight is rounded to it before anything else.
        compression: of this weight; None: as it is.
        modern: whether the package may have the operations of iOS18.

    Raises:
        NonFiniteWeights: it is to be compressed, but holds NaN or infinity.
    """
    rounded = weight.half() if precision == "float16" else weight
    if compression is None:
        return Encoded("const", {"val": Stored(rounded.numpy())})
    if not rounded.isfinite().all():
        raise NonFiniteWeights(
            f"{name} holds NaN or infinity in {precision}, which no palette and no scale can hold",
            hint="build without compression of this model",
        )
    if compression.palettize is not None:
        return _palettized(rounded, compression.palettize, compression.group_size, modern)
    assert compression.linear is not None, "a layer's compression is a palette or linear"
    return _linear(rounded, compression.linear, compression.group_size, modern)


def _palettized(weight: Tensor, bits: int, group_size: int | None, modern: bool) -> Encoded:
    groups = groups_of(weight.shape[0], group_size)
    palettes, indices = palettize(weight, bits, groups)
    lut = palettes.astype(weight.numpy().dtype)
    if modern:
        ones = (1,) * (weight.dim() - 1)
        arguments = {
            "indices": Stored(indices.numpy(), _INDICES[bits]),
            "lut": Stored(lut.reshape(groups, *ones, -1, 1)),
        }
    else:
        arguments = {
            "indices": Stored(pack(indices.reshape(-1).numpy(), bits)),
            "lut": Stored(lut.reshape(-1)),
            "shape": Stored(np.array(weight.shape, np.uint32)),
        }
    return Encoded("constexpr_lut_to_dense", arguments)


def _linear(weight: Tensor, bits: int, group_size: int | None, modern: bool) -> Encoded:
    """Symmetric about zero, each block of a scale of its own."""
    outputs, inputs = weight.shape[:2]
    blocks = weight.float().reshape(outputs, groups_of(inputs, group_size), -1)
    largest = (1 << (bits - 1)) - 1
    # Values are divided by the scale as it will be stored, so that rounding it costs nothing
    scale = (blocks.abs().amax(2, keepdim=True) / largest).to(weight.dtype).float()
    divisor = torch.where(scale > 0, scale, 1.0)
    integers = (blocks / divisor).round().clamp(-largest, largest).to(torch.int8)
    data = integers.reshape(weight.shape).numpy()
    scales = scale.to(weight.dtype).numpy()
    if modern:
        ones = (1,) * (weight.dim() - 2)
        return Encoded(
            "constexpr_blockwise_shift_scale",
            {
                "data": Stored(data, _INTEGERS[bits]),
                "scale": Stored(scales.reshape(outputs, -1, *ones)),
            },
        )
    return Encoded(
        "constexpr_affine_dequantize",
        {
            "quantized_data": Stored(data),
            "zero_point": Stored(np.array(0, np.int8)),
            "scale": Stored(scales.reshape(-1)),
            "axis": Stored(np.array(0, np.int32)),
        },
    )


def groups_of(channels: int, group_size: int | None) -> int:
    """How many groups channels fall into; one where they cannot be divided so."""
    return channels // group_size if group_size and channels % group_size == 0 else 1
