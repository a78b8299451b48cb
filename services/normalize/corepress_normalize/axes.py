"""Tensors that are stored with their axes in another order, as pickles may have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corepress.domain.checkpoint import Tensor


def shaped(values: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    """The flat values of a whole stored tensor as an array of its shape."""
    axes = tensor.axes or tuple(range(len(tensor.shape)))
    return values.reshape([tensor.shape[axis] for axis in axes]).transpose(np.argsort(axes))
