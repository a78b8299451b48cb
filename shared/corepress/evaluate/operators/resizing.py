"""Resizing of the last two axes (``image_resizing.py``)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from corepress.domain.errors import CorruptBundle
from corepress.evaluate.operators.registry import Operators

operators = Operators()


@operators.register
def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Tensor:
    return _interpolate(x, _scaled(x, scale_factor_height, scale_factor_width), "nearest")


@operators.register
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    return _interpolate(x, (target_size_height, target_size_width), "nearest")


@operators.register
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
) -> Tensor:
    sizes = _scaled(x, scale_factor_height, scale_factor_width)
    return _interpolate(x, sizes, "bilinear", align_corners)


@operators.register
def resize_bilinear(
    x: Tensor,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    for axis, size in ((-2, target_size_height), (-1, target_size_width)):
        x = _sampled(x, axis, _grid(x.shape[axis], size, sampling_mode))
    return x


def _scaled(x: Tensor, height: float, width: float) -> tuple[int, int]:
    return math.floor(x.shape[-2] * height), math.floor(x.shape[-1] * width)


def _interpolate(
    x: Tensor, sizes: tuple[int, int], mode: str, align_corners: bool | None = None
) -> Tensor:
    image = x.reshape(1, -1, *x.shape[-2:])
    resized = functional.interpolate(image, sizes, mode=mode, align_corners=align_corners)
    return resized.reshape(*x.shape[:-2], *sizes)


def _grid(size_in: int, size_out: int, mode: str) -> Tensor:
    """Where each output sample lies between the input samples: the table of ``resize_bilinear``."""
    steps = torch.arange(size_out, dtype=torch.float64)
    match mode:
        case "ALIGN_CORNERS" if size_out == 1:
            points = steps + (size_in - 1) / 2
        case "ALIGN_CORNERS" | "STRICT_ALIGN_CORNERS":
            points = steps * (size_in - 1) / max(1, size_out - 1)
        case "DEFAULT":
            points = steps * size_in / size_out
        case "OFFSET_CORNERS":
            points = (steps + 0.5) * max(1, size_in - 1) / size_out
        case "UNALIGN_CORNERS":
            points = (steps + 0.5) * size_in / size_out - 0.5
        case _:
            raise CorruptBundle(f"there is no sampling mode '{mode}'")
    return points.clamp(0, size_in - 1)


def _sampled(x: Tensor, axis: int, points: Tensor) -> Tensor:
    lower = points.floor().long()
    upper = (lower + 1).clamp(max=x.shape[axis] - 1)
    share = (points - lower).to(x.dtype)
    if axis == -2:  # noqa: PLR2004  # the axis itself
        share = share[:, None]
    return torch.lerp(x.index_select(axis, lower), x.index_select(axis, upper), share)
