"""Adding LoRAs to a tensor, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from corepress.domain.checkpoint import Addend, Tensor, TensorPlan
from corepress.domain.stage import Handle
from corepress.runtime.finite import all_finite, is_float
from corepress_normalize.arrangement import in_order
from corepress_normalize.deltas import Array, delta
from corepress_normalize.precision import cast

_INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


@dataclass(slots=True)
class Merger:
    """Adds what plans say, reading factors from the files of LoRAs, one addend at a time.

    ``non_finite`` are the factors that held NaN or infinity, by name.
    """

    files: Mapping[str, Handle]
    non_finite: set[str] = field(default_factory=set)

    def merge(self, data: bytes, dtype: str, plan: TensorPlan) -> memoryview:
        """The sum of a tensor and all that is added to it, in float32.

        Args:
            data: the tensor in the order of its plan, little-endian.
            dtype: its safetensors type.
            plan: says what is added.
        """
        total = _float32(data, dtype).reshape(plan.shape[0], -1)
        with np.errstate(over="ignore", invalid="ignore"):
            for addend in plan.added:
                factors = {name: self._read(tensor) for name, tensor in addend.factors.items()}
                change = delta(addend.kind, factors)
                change *= self._scale(addend)
                change += total
                total = change
        return total.data.cast("B")

    def _scale(self, addend: Addend) -> np.float32:
        alpha = 1.0 if addend.alpha is None else float(self._read(addend.alpha).item())
        return np.float32(addend.scale * alpha)

    def _read(self, tensor: Tensor) -> Array:
        data = self.files[tensor.file].read(tensor.offset, tensor.size_bytes)
        if not all_finite(data, tensor.dtype):
            self.non_finite.add(f"{tensor.name} in {tensor.file.lstrip('/')}")
        return in_order(_float32(data, tensor.dtype), tensor)


def _float32(data: bytes, dtype: str) -> Array:
    if is_float(dtype):
        return np.frombuffer(cast(data, dtype, "F32"), np.float32)
    return np.frombuffer(data, _INTEGERS[dtype]).astype(np.float32)
