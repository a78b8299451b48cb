"""Palettes: the few values that best stand for a tensor's many.

A float16 tensor has at most 65,536 distinct values, however large it is. So what is clustered is
its histogram, exactly: k-means in one dimension has an optimum that dynamic programming finds, the
same one on every run. Source: Wu, "Optimal quantization by matrix searching", 1991.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from coremltools._deps import kmeans1d
from numpy.typing import NDArray
from torch import Tensor

_KEYS = 1 << 16
_LARGEST_EXPONENT = 15
"""Values below 2^15 leave float16 some room."""
_MOST_SCALED = 100
"""Powers of two; more would leave float32's range for tensors of all but nothing."""

_FLOAT16_VALUES = np.nan_to_num(
    np.arange(_KEYS, dtype=np.uint16).view(np.float16).astype(np.float64), posinf=0, neginf=0
)
"""Those of infinities and NaN, which no weight has, are of no account."""


def palettize(weight: Tensor, bits: int, groups: int) -> tuple[NDArray[np.float64], Tensor]:
    """The palettes of a weight, and the index into its palette of every element.

    Args:
        weight: of finite float16 or float32 values; float32 ones are told apart as far as float16
            could, once the largest is near the top of float16's range.
        bits: of an index.
        groups: how many runs of equal length of the first axis have a palette of their own.

    Returns:
        (groups, 2^bits) palettes in ascending order, and uint8 indices in the weight's shape.
    """
    palettes = best_palettes(weight, bits, groups)
    return palettes, nearest(weight, palettes)


def best_palettes(weight: Tensor, bits: int, groups: int) -> NDArray[np.float64]:
    """The palettes alone, see `palettize`."""
    keys, values = _keys(weight)
    return np.stack([_palette(group, values, 1 << bits) for group in keys.reshape(groups, -1)])


def nearest(weight: Tensor, palettes: NDArray[np.float64]) -> Tensor:
    """The index of the nearest value of its palette for every element, see `palettize`."""
    keys, values = _keys(weight)
    indices = []
    for palette, group in zip(palettes, keys.reshape(len(palettes), -1), strict=True):
        between = (palette[1:] + palette[:-1]) / 2
        index_of_key = torch.from_numpy(np.searchsorted(between, values).astype(np.uint8))
        indices.append(index_of_key.index_select(0, group))
    return torch.stack(indices).reshape(weight.shape)


def _keys(weight: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
    """Each element as the bits of a float16, and what these mean: 65,536 values."""
    exponent = 0
    if weight.dtype == torch.float32:
        largest = math.frexp(float(weight.abs().max()))[1]
        exponent = min(_LARGEST_EXPONENT - largest, _MOST_SCALED)
        weight = (weight * 2.0**exponent).half()
    keys = weight.view(torch.int16).int() & (_KEYS - 1)
    return keys, _FLOAT16_VALUES * 2.0**-exponent


def _palette(keys: Tensor, values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The best palette of a size."""
    counts = torch.bincount(keys, minlength=_KEYS).numpy()
    present = np.flatnonzero(counts)
    present = present[np.argsort(values[present], kind="stable")]
    centres = kmeans1d.cluster(values[present], size, weights=counts[present]).centroids
    return np.pad(np.sort(centres), (0, size - len(centres)), mode="edge")
