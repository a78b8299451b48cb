"""Convolution, pooling, normalization, attention and resizing against torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from evaluate_cases import Case, assert_evaluates, constant, uncovered, weight
from torch import Tensor
from torch.nn import functional

from corepress.evaluate.operators import attention, convolution, normalization, resizing

IMAGE = ((2, 4, 7, 6),)


def resized(mode: str, *grid: float) -> Case:
    """Two samples resized; the grid points are those in the definition of resize_bilinear."""

    def build(x: Any) -> Any:
        return Builder.resize_bilinear(
            x=x, target_size_height=1, target_size_width=len(grid), sampling_mode=mode
        )

    def expected(x: Tensor) -> Tensor:
        return x[..., :1] + torch.tensor(grid) * (x[..., 1:] - x[..., :1])

    return Case("resize_bilinear", build, expected, shapes=((3, 1, 2),), note=mode)


CASES = [
    Case(
        "conv",
        lambda x: Builder.conv(
            x=x,
            weight=constant(6, 2, 3, 2),
            bias=constant(6),
            strides=[2, 1],
            pad_type="custom",
            pad=[1, 1, 0, 0],
            dilations=[1, 2],
            groups=2,
        ),
        lambda x: functional.conv2d(x, weight(6, 2, 3, 2), weight(6), (2, 1), (1, 0), (1, 2), 2),
        shapes=IMAGE,
    ),
    Case(
        "conv",
        lambda x: Builder.conv(
            x=x, weight=constant(6, 4, 3, 3), strides=[2, 2], pad_type="custom", pad=[0, 1, 0, 1]
        ),
        lambda x: functional.conv2d(functional.pad(x, (0, 1, 0, 1)), weight(6, 4, 3, 3), stride=2),
        shapes=IMAGE,
        note="asymmetric-pad",
    ),
    Case(
        "conv",
        lambda x: Builder.conv(x=x, weight=constant(6, 4, 3, 2), pad_type="same"),
        lambda x: functional.conv2d(functional.pad(x, (0, 1, 1, 1)), weight(6, 4, 3, 2)),
        shapes=IMAGE,
        note="same",
    ),
    Case(
        "conv",
        lambda x: Builder.conv(x=x, weight=constant(5, 3, 2), pad_type="valid"),
        lambda x: functional.conv1d(x, weight(5, 3, 2)),
        note="1d",
    ),
    Case(
        "conv_transpose",
        lambda x: Builder.conv_transpose(
            x=x,
            weight=constant(4, 3, 3, 3),
            bias=constant(3),
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            output_shape=[2, 3, 14, 12],
        ),
        lambda x: functional.conv_transpose2d(
            x, weight(4, 3, 3, 3), weight(3), stride=2, padding=1, output_padding=1
        ),
        shapes=IMAGE,
        note="output-shape",
    ),
    Case(
        "conv_transpose",
        lambda x: Builder.conv_transpose(
            x=x, weight=constant(4, 3, 3, 3), pad_type="custom", pad=[1, 0, 0, 2]
        ),
        lambda x: functional.conv_transpose2d(x, weight(4, 3, 3, 3))[:, :, 1:, :-2],
        shapes=IMAGE,
        note="asymmetric-pad",
    ),
    Case(
        "avg_pool",
        lambda x: Builder.avg_pool(
            x=x,
            kernel_sizes=[3, 2],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            ceil_mode=True,
            exclude_padding_from_average=True,
        ),
        lambda x: functional.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
        shapes=IMAGE,
    ),
    Case(
        "avg_pool",
        lambda x: Builder.avg_pool(
            x=x,
            kernel_sizes=[2, 2],
            strides=[2, 2],
            pad_type="custom",
            pad=[0, 1, 0, 0],
            exclude_padding_from_average=True,
        ),
        # Only the last row of windows is half padding.
        lambda x: torch.cat(
            [functional.avg_pool2d(x, 2), functional.avg_pool2d(x[:, :, 6:], (1, 2))], 2
        ),
        shapes=IMAGE,
        note="asymmetric-pad",
    ),
    Case(
        "max_pool",
        lambda x: Builder.max_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[0, 1, 1, 1]
        ),
        lambda x: functional.max_pool2d(functional.pad(x, (1, 1, 0, 1), value=-math.inf), 3, 2),
        shapes=IMAGE,
    ),
    Case(
        "batch_norm",
        lambda x: Builder.batch_norm(
            x=x,
            mean=constant(4),
            variance=np.abs(constant(4)),
            gamma=constant(4, seed=1),
            beta=constant(4, seed=2),
            epsilon=1e-3,
        ),
        lambda x: functional.batch_norm(
            x, weight(4), weight(4).abs(), weight(4, seed=1), weight(4, seed=2), eps=1e-3
        ),
        shapes=IMAGE,
    ),
    Case(
        "instance_norm",
        lambda x: Builder.instance_norm(
            x=x, gamma=constant(4), beta=constant(4, seed=1), epsilon=1e-3
        ),
        lambda x: functional.instance_norm(x, weight=weight(4), bias=weight(4, seed=1), eps=1e-3),
        shapes=IMAGE,
    ),
    Case(
        "layer_norm",
        lambda x: Builder.layer_norm(
            x=x, axes=[-1], gamma=constant(4), beta=constant(4, seed=1), epsilon=1e-3
        ),
        lambda x: functional.layer_norm(x, (4,), weight(4), weight(4, seed=1), 1e-3),
    ),
    Case(
        "layer_norm",
        lambda x: Builder.layer_norm(x=x, axes=[1], gamma=constant(4), epsilon=1e-3),
        lambda x: functional.layer_norm(x.movedim(1, -1), (4,), weight(4), eps=1e-3).movedim(-1, 1),
        shapes=IMAGE,
        note="channels",
    ),
    Case(
        "l2_norm",
        lambda x: Builder.l2_norm(x=x, epsilon=1e-6),
        lambda x: x / (x.square().sum((1, 2, 3), keepdim=True) + 1e-6).sqrt(),
        shapes=IMAGE,
    ),
    Case(
        "linear",
        lambda x: Builder.linear(x=x, weight=constant(5, 4), bias=constant(5)),
        lambda x: x @ weight(5, 4).T + weight(5),
    ),
    Case(
        "matmul",
        lambda x, y: Builder.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
        lambda x, y: x.transpose(1, 2) @ y.transpose(1, 2),
        shapes=((2, 3, 4), (2, 5, 3)),
    ),
    Case(
        "einsum",
        lambda x, y: Builder.einsum(values=(y, x), equation="bkhc,bchq->bkhq"),
        lambda x, y: torch.einsum("bchq,bkhc->bkhq", x, y),
        shapes=((2, 4, 1, 5), (2, 6, 1, 4)),
    ),
    Case(
        "scaled_dot_product_attention",
        lambda x, y: Builder.scaled_dot_product_attention(
            query=x, key=y, value=Builder.square(x=y), attn_mask=constant(1, 1, 3, 6)
        ),
        lambda x, y: (
            (x @ y.transpose(-1, -2) / math.sqrt(4) + weight(1, 1, 3, 6)).softmax(-1) @ y.square()
        ),
        shapes=((2, 2, 3, 4), (2, 2, 6, 4)),
        target=18,
    ),
    Case(
        "upsample_nearest_neighbor",
        lambda x: Builder.upsample_nearest_neighbor(
            x=x, scale_factor_height=2, scale_factor_width=3
        ),
        lambda x: x.repeat_interleave(2, 1).repeat_interleave(3, 2),
    ),
    Case(
        "resize_nearest_neighbor",
        lambda x: Builder.resize_nearest_neighbor(x=x, target_size_height=5, target_size_width=9),
        lambda x: functional.interpolate(x, (5, 9), mode="nearest"),
        shapes=IMAGE,
    ),
    Case(
        "upsample_bilinear",
        lambda x: Builder.upsample_bilinear(
            x=x, scale_factor_height=2.0, scale_factor_width=1.5, align_corners=False
        ),
        lambda x: functional.interpolate(x, (14, 9), mode="bilinear"),
        shapes=IMAGE,
    ),
    Case(
        "upsample_bilinear",
        lambda x: Builder.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=2),
        lambda x: functional.interpolate(x, (14, 12), mode="bilinear", align_corners=True),
        shapes=IMAGE,
        note="align-corners",
    ),
    resized("UNALIGN_CORNERS", 0, 0.1, 0.5, 0.9, 1),
    resized("STRICT_ALIGN_CORNERS", 0, 0.25, 0.5, 0.75, 1),
    resized("ALIGN_CORNERS", 0, 0.2, 0.4, 0.6, 0.8, 1),
    resized("DEFAULT", 0, 0.4, 0.8, 1, 1),
    resized("OFFSET_CORNERS", 0.1, 0.3, 0.5, 0.7, 0.9),
    Case(
        "resize_bilinear",
        lambda x: Builder.resize_bilinear(
            x=x, target_size_height=3, target_size_width=9, sampling_mode="UNALIGN_CORNERS"
        ),
        lambda x: functional.interpolate(x, (3, 9), mode="bilinear"),
        shapes=IMAGE,
        note="both-axes",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation_gives_what_torch_gives(case: Case, tmp_path: Path) -> None:
    assert_evaluates(case, tmp_path / "model.mlpackage")


def test_every_operation_has_a_case() -> None:
    assert not uncovered(CASES, attention, convolution, normalization, resizing)
