"""Finding NaN and infinity in stored tensors by their bit patterns, without decoding them."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

_FIRST_NON_FINITE: dict[str, tuple[DTypeLike, DTypeLike, int]] = {
    "F64": (np.uint64, np.int64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, np.int32, 0x7F80_0000),
    "F16": (np.uint16, np.int16, 0x7C00),
    "BF16": (np.uint16, np.int16, 0x7F80),
    "F8_E5M2": (np.uint8, np.int8, 0x7C),
    "F8_E4M3": (np.uint8, np.int8, 0x7F),
}
"""Per safetensors type: its bits as unsigned and signed integers, and the smallest positive pattern
that is no number (infinity; E4M3 has none, only NaN, see OCP 8-bit floating point, table 1)."""


def is_float(dtype: str) -> bool:
    """Whether a safetensors type is one of the floating-point types that can hold NaN."""
    return dtype in _FIRST_NON_FINITE


def all_finite(data: bytes | memoryview, dtype: str) -> bool:
    """Whether a little-endian buffer of a safetensors type holds neither NaN nor infinity.

    Integer types are always finite. With the sign bit aside, patterns grow with magnitude, so two
    maxima decide: of the signed view (positive values) and of the unsigned view (negative ones).
    """
    if dtype not in _FIRST_NON_FINITE or not len(data):
        return True
    unsigned, signed, first = _FIRST_NON_FINITE[dtype]
    bits = np.frombuffer(data, unsigned)
    sign = 1 << (8 * bits.itemsize - 1)
    return bool(bits.view(signed).max() < first and bits.max() < first | sign)
