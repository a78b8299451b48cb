"""Which type a tensor gets, and how its values get there."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from corepress.domain.errors import InvalidRequest
from corepress.runtime.finite import all_finite, is_float

PRECISIONS = ("auto", "fp16", "fp32")

_STORED: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
}
_AUTO = {"F64": "F32", "F32": "F32"}
_ASKED = {"fp16": "F16", "fp32": "F32"}
_FLOAT8_AS_FLOAT16 = {
    name: np.arange(256, dtype=np.uint8).view(_STORED[name]).astype(np.float16)
    for name in ("F8_E5M2", "F8_E4M3")
}


def check_precision(precision: str) -> None:
    """Refuse a precision that does not exist.

    Raises:
        InvalidRequest: it is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise InvalidRequest(
            f"precision {precision!r} does not exist", hint=f"one of {', '.join(PRECISIONS)}"
        )


def target_dtype(dtype: str, precision: str) -> str:
    """The safetensors type in which a stored tensor is written.

    Integers stay. ``auto`` keeps float32 and float16, narrows float64 to float32 and takes
    bfloat16 and the 8-bit types to float16, which Core ML has.
    """
    if not is_float(dtype):
        return dtype
    return _ASKED[precision] if precision in _ASKED else _AUTO.get(dtype, "F16")


def item_size_bytes(dtype: str) -> int:
    """The size of one value of a floating-point safetensors type."""
    return _STORED[dtype].itemsize


def cast(data: bytes | memoryview, source: str, target: str) -> memoryview:
    """Little-endian values of one floating-point type as another, rounded to nearest even."""
    if (source, target) == ("F32", "F16"):
        from corepress_normalize.float16 import from_float32  # noqa: PLC0415  see there

        return from_float32(data)
    if source in _FLOAT8_AS_FLOAT16:
        values = _FLOAT8_AS_FLOAT16[source][np.frombuffer(data, np.uint8)]
    else:
        values = np.frombuffer(data, _STORED[source])
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(_STORED[target], copy=False).data.cast("B")


def identity(rows: int, dtype: str) -> bytes:
    """The values of a square matrix of ones on its diagonal and zeros elsewhere."""
    return np.eye(rows, dtype=_STORED[dtype]).tobytes()


def overflows(data: bytes | memoryview, source: str, converted: memoryview, target: str) -> bool:
    """Whether a finite value became infinite in `cast`."""
    if all_finite(converted, target):
        return False
    before = np.isfinite(np.frombuffer(data, _STORED[source]))
    after = np.isfinite(np.frombuffer(converted, _STORED[target]))
    return bool((before & ~after).any())
