"""Rearranging, generating and indexing against torch and numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from evaluate_cases import Case, assert_evaluates, uncovered
from torch import Tensor
from torch.nn import functional

from corepress.evaluate.operators import arrangement, generation, indexing

IMAGE = ((2, 4, 7, 6),)
INDICES = np.array([[2, 0], [1, 1]], np.int32)
PAIRS = np.array([[0, 2], [1, 0]], np.int32)


def scattered(mode: str, join: Callable[[Tensor, Tensor], Tensor]) -> Case:
    def build(x: Any, y: Any) -> Any:
        return Builder.scatter_along_axis(data=x, indices=INDICES, updates=y, axis=1, mode=mode)

    def expected(x: Tensor, y: Tensor) -> Tensor:
        # INDICES send the first row's updates to columns 2 and 0, the second's both to column 1.
        first = [join(x[0, 0], y[0, 1]), x[0, 1], join(x[0, 2], y[0, 0])]
        second = [x[1, 0], join(join(x[1, 1], y[1, 0]), y[1, 1]), x[1, 2]]
        return torch.stack([torch.stack(first), torch.stack(second)])

    return Case("scatter_along_axis", build, expected, shapes=((2, 3), (2, 2)), note=mode)


CASES = [
    Case(
        "expand_dims",
        lambda x: Builder.expand_dims(x=x, axes=[0, -2]),
        lambda x: x[None, :, :, None],
    ),
    Case("flatten2d", lambda x: Builder.flatten2d(x=x, axis=2), lambda x: x.reshape(6, 4)),
    Case("reshape", lambda x: Builder.reshape(x=x, shape=[0, 2, -1]), lambda x: x.reshape(2, 2, 6)),
    Case(
        "reshape",
        lambda x: Builder.reshape(x=x, shape=[1, 0, -1, 0]),
        lambda x: x.reshape(1, 1, 2, 50),
        shapes=((2, 50),),
        note="zeros-count-from-the-right",
    ),
    Case(
        "reshape_like",
        lambda x, y: Builder.reshape_like(
            x=x, ref_tensors=(y, x), begins=(0, 1), ends=(1, 0), end_masks=(False, True)
        ),
        lambda x, y: x.reshape(*y.shape[:1], *x.shape[1:]),
        shapes=((2, 3, 4), (2, 5)),
    ),
    Case("reverse", lambda x: Builder.reverse(x=x, axes=[0, -1]), lambda x: x.flip(0, 2)),
    Case(
        "squeeze",
        lambda x: Builder.squeeze(x=x, axes=[1]),
        lambda x: x[:, 0],
        shapes=((2, 1, 4, 1),),
    ),
    Case(
        "squeeze",
        lambda x: Builder.squeeze(x=x),
        lambda x: x[:, 0, :, 0],
        shapes=((2, 1, 4, 1),),
        note="all",
    ),
    Case(
        "stack",
        lambda x, y: Builder.stack(values=(x, y), axis=1),
        lambda x, y: torch.stack([x, y], 1),
        shapes=((2, 3), (2, 3)),
    ),
    Case("tile", lambda x: Builder.tile(x=x, reps=[2, 1, 3]), lambda x: x.repeat(2, 1, 3)),
    Case(
        "transpose", lambda x: Builder.transpose(x=x, perm=[2, 0, 1]), lambda x: x.permute(2, 0, 1)
    ),
    Case(
        "concat",
        lambda x, y: Builder.concat(values=(x, y), axis=-1),
        lambda x, y: torch.cat([x, y], -1),
        shapes=((2, 3), (2, 4)),
    ),
    Case(
        "concat",
        lambda x, y: Builder.concat(values=(x, y), axis=0, interleave=True),
        lambda x, y: torch.stack([x, y], 1).reshape(6, 2),
        shapes=((3, 2), (3, 2)),
        note="interleave",
    ),
    Case(
        "split",
        lambda x: Builder.split(x=x, num_splits=2, axis=-1),
        lambda x: (x[..., :2], x[..., 2:]),
    ),
    Case(
        "split",
        lambda x: Builder.split(x=x, split_sizes=[1, 3], axis=2),
        lambda x: (x[..., :1], x[..., 1:]),
        note="sizes",
    ),
    Case(
        "pad",
        lambda x: Builder.pad(x=x, pad=[1, 0, 2, 3], mode="constant", constant_val=0.5),
        lambda x: functional.pad(x, (2, 3, 1, 0), value=0.5),
    ),
    Case(
        "pad",
        lambda x: Builder.pad(x=x, pad=[1, 2, 3, 1], mode="reflect"),
        lambda x: functional.pad(x, (3, 1, 1, 2), mode="reflect"),
        shapes=IMAGE,
        note="reflect",
    ),
    Case(
        "pad",
        lambda x: Builder.pad(x=x, pad=[1, 2, 3, 1], mode="replicate"),
        lambda x: functional.pad(x, (3, 1, 1, 2), mode="replicate"),
        shapes=IMAGE,
        note="replicate",
    ),
    Case(
        "argsort",
        lambda x: Builder.argsort(x=x, axis=1),
        lambda x: x.argsort(1, descending=True),
    ),
    Case(
        "topk",
        lambda x: Builder.topk(x=x, k=2, axis=1, ascending=True),
        lambda x: tuple(part[:, :2] for part in x.sort(1)),
    ),
    Case(
        "slice_by_index",
        lambda x: Builder.slice_by_index(
            x=x,
            begin=[1, 0, -3],
            end=[0, 2, -1],
            squeeze_mask=[True, False, False],
            begin_mask=[False, True, False],
        ),
        lambda x: x[1, :2, -3:-1],
    ),
    Case(
        "slice_by_index",
        lambda x: Builder.slice_by_index(
            x=x,
            begin=[0, 0, 3],
            end=[2, 3, 0],
            stride=[1, 2, -2],
            end_mask=[False, False, True],
        ),
        lambda x: torch.from_numpy(x.numpy()[0:2, 0:3:2, 3::-2].copy()),
        note="strides",
    ),
    Case(
        "slice_by_size",
        lambda x: Builder.slice_by_size(x=x, begin=[0, 1, -2], size=[2, -1, 1]),
        lambda x: x[:, 1:, 2:3],
    ),
    Case(
        "slice_update",
        lambda x, y: Builder.slice_update(x=x, update=y, begin=[0, 1, 0], end=[2, 3, 4]),
        lambda x, y: torch.cat([x[:, :1], y], 1),
        shapes=((2, 3, 4), (2, 2, 4)),
        target=18,
    ),
    Case(
        "gather",
        lambda x: Builder.gather(x=x, indices=INDICES, axis=1),
        lambda x: torch.from_numpy(np.take(x.numpy(), INDICES, 1)),
    ),
    Case(
        "gather",
        lambda x: Builder.gather(x=x, indices=INDICES, axis=2, batch_dims=1),
        lambda x: torch.stack([x[0][:, [2, 0]], x[1][:, [1, 1]]]),
        note="batch",
    ),
    Case(
        "gather",
        lambda x: Builder.gather(x=x, indices=-1, axis=1),
        lambda x: x[:, -1],
        target=15,
        note="negative-scalar",
    ),
    Case(
        "gather_along_axis",
        lambda x: Builder.gather_along_axis(x=x, indices=INDICES, axis=1),
        lambda x: torch.from_numpy(np.take_along_axis(x.numpy(), INDICES, 1)),
        shapes=((2, 3),),
    ),
    Case(
        "gather_nd",
        lambda x: Builder.gather_nd(x=x, indices=PAIRS),
        lambda x: torch.stack([x[0, 2], x[1, 0]]),
    ),
    Case(
        "gather_nd",
        lambda x: Builder.gather_nd(x=x, indices=PAIRS, batch_dims=1),
        lambda x: torch.stack([x[0, 0, 2], x[1, 1, 0]]),
        note="batch",
    ),
    Case(
        "non_zero",
        lambda x: Builder.non_zero(x=Builder.greater(x=x, y=0.0)),
        lambda x: torch.stack((x > 0).nonzero(as_tuple=True), 1),
    ),
    Case(
        "scatter",
        lambda x, y: Builder.scatter(data=x, indices=[2, 0], updates=y, axis=1, mode="update"),
        lambda x, y: torch.stack([y[:, 1], x[:, 1], y[:, 0]], 1),
        shapes=((2, 3, 4), (2, 2, 4)),
    ),
    scattered("add", torch.add),
    scattered("sub", torch.sub),
    scattered("mul", torch.mul),
    scattered("div", torch.div),
    scattered("max", torch.maximum),
    scattered("min", torch.minimum),
    Case(
        "scatter_nd",
        lambda x, y: Builder.scatter_nd(data=x, indices=PAIRS, updates=y, mode="add"),
        lambda x, y: x.index_put((torch.tensor([0, 1]), torch.tensor([2, 0])), y, accumulate=True),
        shapes=((2, 3, 4), (2, 4)),
    ),
    Case(
        "band_part", lambda x: Builder.band_part(x=x, lower=1, upper=0), lambda x: x.tril().triu(-1)
    ),
    Case("cumsum", lambda x: Builder.cumsum(x=x, axis=1), lambda x: x.cumsum(1)),
    Case(
        "cumsum",
        lambda x: Builder.cumsum(x=x, axis=1, exclusive=True, reverse=True),
        lambda x: torch.stack([x[:, 1] + x[:, 2], x[:, 2], torch.zeros(2, 4)], 1),
        note="exclusive-reverse",
    ),
    Case(
        "fill",
        lambda x: Builder.add(x=Builder.fill(shape=Builder.shape(x=x), value=1.5), y=x),
        lambda x: x + 1.5,
    ),
    Case(
        "fill_like",
        lambda x: Builder.add(x=Builder.fill_like(ref_tensor=x, value=1.5), y=x),
        lambda x: x + 1.5,
    ),
    Case("shape", lambda x: Builder.shape(x=x), lambda x: torch.tensor(x.shape)),
    Case(
        "one_hot",
        lambda x: Builder.one_hot(
            indices=Builder.reduce_argmax(x=x, axis=2),
            one_hot_vector_size=4,
            axis=1,
            on_value=2.0,
            off_value=-1.0,
        ),
        lambda x: functional.one_hot(x.argmax(2), 4).transpose(1, 2) * 3.0 - 1.0,
    ),
    Case(
        "range_1d",
        lambda x: Builder.range_1d(
            start=1,
            end=Builder.squeeze(x=Builder.slice_by_size(x=Builder.shape(x=x), begin=[2], size=[1])),
            step=2,
        ),
        lambda x: torch.arange(1, x.shape[2], 2),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation_gives_what_torch_gives(case: Case, tmp_path: Path) -> None:
    assert_evaluates(case, tmp_path / "model.mlpackage")


def test_every_operation_has_a_case() -> None:
    assert not uncovered(CASES, arrangement, generation, indexing)
