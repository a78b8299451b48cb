"""The order of a tensor's elements: as stored, as its shape says, as its plan says."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.domain.checkpoint import Tensor, TensorPlan


def in_order(values: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    """All values of a stored tensor in its shape, in whatever order its axes are stored."""
    axes = tensor.axes or tuple(range(len(tensor.shape)))
    stored = values.reshape([tensor.shape[axis] for axis in axes])
    return stored.transpose(np.argsort(axes))


def rearranged(data: bytes, plan: TensorPlan) -> bytes:
    """A whole stored tensor, with its elements in the order of the planned one."""
    items = np.frombuffer(data, f"V{len(data) // prod(plan.source.shape)}")
    values = in_order(items, plan.source)
    if plan.rows is not None and plan.source.axes:
        values = values[slice(*plan.rows)]
    return (values.T if plan.transpose else values).tobytes()
