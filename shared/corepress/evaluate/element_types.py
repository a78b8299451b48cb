"""The element types of ML programs: how they are stored, and how the evaluator holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from coremltools.proto import MIL_pb2
from torch import Tensor

from corepress.evaluate.bits import BYTE_BITS

Arithmetic = Literal["float32", "native"]
"""``float32``: every float is held and computed in float32, whatever its declared type, and casts
between float types change nothing. ``native``: results are rounded to their declared type."""


@dataclass(frozen=True)
class ElementType:
    """One element type.

    ``bits``: the stored size of an element; types below 8 bits are packed, least significant bit
    first. ``stored``: the numpy type of the stored elements, or of the bytes they are packed in.
    ``held``: the torch type of an evaluated value; it holds every value of the type exactly.
    ``blob_code``: the type's number in a weight file, None where weight files have no such type.
    """

    name: str
    bits: int
    stored: np.dtype[np.generic]
    held: torch.dtype
    blob_code: int | None

    def size_bytes(self, shape: Iterable[int]) -> int:
        """The stored size of a tensor of this type."""
        return math.ceil(math.prod(shape) * self.bits / BYTE_BITS)

    def conform(self, value: Tensor, arithmetic: Arithmetic) -> Tensor:
        """A result as a value of this type: cast between kinds, rounded in native arithmetic."""
        if self.name == "float16" and arithmetic == "native":
            return value.half().float()
        held = value.to(self.held)
        # torch computes poorly with uint16 and uint32, so wider integers hold their values.
        return held & ((1 << self.bits) - 1) if self.name in ("uint16", "uint32") else held


def _type(
    name: str, bits: int, stored: type[np.generic], held: torch.dtype, blob_code: int | None
) -> ElementType:
    # Weight files and inline bytes are little-endian.
    return ElementType(name, bits, np.dtype(stored).newbyteorder("<"), held, blob_code)


# The blob codes are those of the enumeration BlobDataType in coremltools' mlmodel/src/MILBlob.
ELEMENT_TYPES = {
    MIL_pb2.BOOL: _type("bool", 8, np.bool_, torch.bool, None),
    MIL_pb2.STRING: _type("string", 8, np.uint8, torch.uint8, None),
    MIL_pb2.FLOAT16: _type("float16", 16, np.float16, torch.float32, 1),
    MIL_pb2.FLOAT32: _type("float32", 32, np.float32, torch.float32, 2),
    MIL_pb2.INT4: _type("int4", 4, np.uint8, torch.int8, 8),
    MIL_pb2.INT8: _type("int8", 8, np.int8, torch.int8, 4),
    MIL_pb2.INT16: _type("int16", 16, np.int16, torch.int16, 6),
    MIL_pb2.INT32: _type("int32", 32, np.int32, torch.int32, 14),
    MIL_pb2.INT64: _type("int64", 64, np.int64, torch.int64, None),
    MIL_pb2.UINT1: _type("uint1", 1, np.uint8, torch.uint8, 9),
    MIL_pb2.UINT2: _type("uint2", 2, np.uint8, torch.uint8, 10),
    MIL_pb2.UINT3: _type("uint3", 3, np.uint8, torch.uint8, 12),
    MIL_pb2.UINT4: _type("uint4", 4, np.uint8, torch.uint8, 11),
    MIL_pb2.UINT6: _type("uint6", 6, np.uint8, torch.uint8, 13),
    MIL_pb2.UINT8: _type("uint8", 8, np.uint8, torch.uint8, 3),
    MIL_pb2.UINT16: _type("uint16", 16, np.uint16, torch.int32, 7),
    MIL_pb2.UINT32: _type("uint32", 32, np.uint32, torch.int64, 15),
}
