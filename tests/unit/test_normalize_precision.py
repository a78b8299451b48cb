"""Casting agrees with torch on every bit pattern or on many, and sees what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corepress.domain.errors import InvalidRequest
from corepress.runtime.finite import all_finite
from corepress_normalize.precision import cast, check_precision, overflows, target_dtype

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
CASTS = [
    (source, target)
    for source in TORCH
    for target in ("F16", "F32")
    if source != target and (source, target) != ("F64", "F16")  # torch rounds these twice
]


def patterns(dtype: str) -> bytes:
    """Every bit pattern of a type of 8 or 16 bits, many of a wider one."""
    item_bytes = TORCH[dtype].itemsize
    if item_bytes <= 2:
        return np.arange(256**item_bytes, dtype=f"u{item_bytes}").tobytes()
    generator = np.random.default_rng(0)
    spread = generator.standard_normal(50_000) * 10.0 ** generator.integers(-12, 8, 50_000)
    values = np.concatenate([spread, [0.0, -0.0, 65504, 65519.9, 65520, -65520, 1e30, 6e-8, 3e-8]])
    return values.astype(f"f{item_bytes}").tobytes()


def as_torch(data: bytes | memoryview, dtype: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=TORCH[dtype])


@pytest.mark.parametrize(("source", "target"), CASTS)
def test_cast_rounds_as_torch_does(source: str, target: str) -> None:
    data = patterns(source)
    result = as_torch(cast(data, source, target), target)
    expected = as_torch(data, source).to(TORCH[target])
    assert torch.equal(result.nan_to_num(nan=12345.0), expected.nan_to_num(nan=12345.0))


@pytest.mark.parametrize("dtype", TORCH)
def test_non_finite_values_are_found_by_their_bits(dtype: str) -> None:
    data = patterns(dtype)
    values = as_torch(data, dtype).to(torch.float64)
    size = len(data) // len(values)
    pieces = [data[i * size : (i + 1) * size] for i in range(min(len(values), 70_000))]
    found = [all_finite(piece, dtype) for piece in pieces]
    assert found == values.isfinite().tolist()[: len(found)]
    assert all_finite(data, dtype) == bool(values.isfinite().all())


def test_integers_are_always_finite() -> None:
    assert all_finite(b"\xff" * 64, "I64")


@pytest.mark.parametrize(
    ("value", "expected"), [(65504, False), (65519.9, False), (65520, True), (-1e6, True)]
)
def test_overflow_begins_where_rounding_leaves_float16(value: float, expected: bool) -> None:
    data = np.array([1.0, value], np.float32).tobytes()
    assert overflows(data, "F32", cast(data, "F32", "F16"), "F16") is expected


def test_infinity_in_the_source_is_no_overflow() -> None:
    data = np.array([np.inf, np.nan, 1.0], np.float32).tobytes()
    assert not overflows(data, "F32", cast(data, "F32", "F16"), "F16")


@pytest.mark.parametrize(
    ("dtype", "auto", "fp16", "fp32"),
    [
        ("F64", "F32", "F16", "F32"),
        ("F32", "F32", "F16", "F32"),
        ("F16", "F16", "F16", "F32"),
        ("BF16", "F16", "F16", "F32"),
        ("F8_E4M3", "F16", "F16", "F32"),
        ("F8_E5M2", "F16", "F16", "F32"),
        ("I64", "I64", "I64", "I64"),
    ],
)
def test_target_types(dtype: str, auto: str, fp16: str, fp32: str) -> None:
    assert [target_dtype(dtype, p) for p in ("auto", "fp16", "fp32")] == [auto, fp16, fp32]


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="fp64"):
        check_precision("fp64")
