"""Convolution and pooling (``conv.py``, ``pool.py``)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from corepress.domain.errors import CorruptBundle
from corepress.evaluate.operators.registry import Operators

operators = Operators()

_CONV = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_CONV_TRANSPOSE = {
    1: torch.conv_transpose1d,
    2: torch.conv_transpose2d,
    3: torch.conv_transpose3d,
}
_AVG_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_MAX_POOL = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}

Pads = tuple[tuple[int, int], ...]
"""The padding before and after each spatial axis."""


@operators.register
def conv(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    strides: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    axes = x.dim() - 2
    strides, dilations = strides or (1,) * axes, dilations or (1,) * axes
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    pads = _pads(pad_type, pad, x.shape[2:], kernel, strides)
    padding, x = _symmetric(pads, x, 0.0)
    return _CONV[axes](x, weight, bias, strides, padding, dilations, groups)


@operators.register
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    pad: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    strides: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    axes = x.dim() - 2
    strides, dilations = strides or (1,) * axes, dilations or (1,) * axes
    # The whole result, then the declared part of it; output_padding only where that reaches
    # beyond the last product.
    whole = [
        (size - 1) * stride + (k - 1) * dilation + 1
        for size, stride, k, dilation in zip(
            x.shape[2:], strides, weight.shape[2:], dilations, strict=True
        )
    ]
    if pad_type == "same":
        sizes = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
        before = [max(0, w - size) // 2 for w, size in zip(whole, sizes, strict=True)]
    else:
        pads = _pads(pad_type, pad, x.shape[2:], weight.shape[2:], strides)
        sizes = [w - sum(p) for w, p in zip(whole, pads, strict=True)]
        before = [p[0] for p in pads]
    if output_shape is not None:
        sizes = list(output_shape[2:])
    beyond = [max(0, start + size - w) for start, size, w in zip(before, sizes, whole, strict=True)]
    result = _CONV_TRANSPOSE[axes](x, weight, bias, strides, 0, beyond, groups, dilations)
    for axis, (start, size) in enumerate(zip(before, sizes, strict=True), start=2):
        result = result.narrow(axis, start, size)
    return result


@operators.register
def avg_pool(
    x: Tensor,
    *,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    strides = strides or (1,) * len(kernel_sizes)
    pads = _pads(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    pool = _AVG_POOL[len(kernel_sizes)]
    padding, padded = _symmetric(pads, x, 0.0)
    average = pool(
        padded, kernel_sizes, strides, padding, ceil_mode, not exclude_padding_from_average
    )
    if padded is x or not exclude_padding_from_average:
        return average
    _, inside = _symmetric(pads, torch.ones_like(x), 0.0)
    return average / pool(inside, kernel_sizes, strides, padding, ceil_mode)


@operators.register
def max_pool(
    x: Tensor,
    *,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or (1,) * len(kernel_sizes)
    pads = _pads(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    padding, x = _symmetric(pads, x, -math.inf)
    return _MAX_POOL[len(kernel_sizes)](x, kernel_sizes, strides, padding, 1, ceil_mode)


def _pads(
    pad_type: str,
    pad: tuple[int, ...] | None,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
) -> Pads:
    """The padding of each axis, as ``aggregated_pad`` in coremltools' ops/defs/_utils.py has it.

    ``kernel`` is the extent of the dilated kernel.
    """
    if pad_type == "valid":
        return ((0, 0),) * len(sizes)
    if pad_type == "custom" and pad is not None:
        return tuple(zip(pad[::2], pad[1::2], strict=True))
    if pad_type not in ("same", "same_lower"):
        raise CorruptBundle(f"a padding '{pad_type}' without its sizes")
    totals = [
        max(0, stride * math.ceil(size / stride) - size + k - stride)
        for size, k, stride in zip(sizes, kernel, strides, strict=True)
    ]
    if pad_type == "same":
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((total - total // 2, total // 2) for total in totals)


def _symmetric(pads: Pads, x: Tensor, fill: float) -> tuple[tuple[int, ...], Tensor]:
    """The padding that torch may add itself, and ``x`` with the padding that it cannot."""
    if all(before == after for before, after in pads):
        return tuple(before for before, _ in pads), x
    from_last = [size for before_after in reversed(pads) for size in before_after]
    return (0,) * len(pads), functional.pad(x, from_last, value=fill)
