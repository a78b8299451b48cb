"""Palettes and integers against what they should be: the best, by trying all, and the nearest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from corepress.domain.errors import NonFiniteWeights
from corepress.domain.recipe import Compression
from corepress.evaluate.bits import pack, unpack
from corepress_compile.encoding import encode
from corepress_compile.palette import palettize

FLOAT16 = st.floats(-100, 100, width=16)


def looked_up(weight: Tensor, bits: int, groups: int = 1) -> Tensor:
    palettes, indices = palettize(weight, bits, groups)
    rows = zip(torch.from_numpy(palettes), indices.reshape(groups, -1).int(), strict=True)
    return torch.stack([palette[row] for palette, row in rows]).reshape(weight.shape)


def squared_error(values: list[float]) -> float:
    return float(np.sum((np.array(values) - np.mean(values)) ** 2)) if values else 0.0


@given(st.lists(FLOAT16, min_size=1, max_size=9), st.sampled_from([1, 2]))
def test_no_palette_is_better(values: list[float], bits: int) -> None:
    found = (looked_up(torch.tensor(values).half(), bits) - torch.tensor(values)).square().sum()
    ordered = sorted(values)
    cuts = itertools.combinations_with_replacement(range(len(ordered) + 1), 2**bits - 1)
    least = min(
        sum(
            squared_error(ordered[start:stop])
            for start, stop in itertools.pairwise((0, *places, len(ordered)))
        )
        for places in cuts
    )
    assert float(found) == pytest.approx(least, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float16, 1.0),
        (torch.float32, 1.0),
        (torch.float32, 2.0**-90),
        (torch.float32, 2.0**90),
    ],
    ids=str,
)
def test_values_that_all_find_a_place_are_kept(dtype: torch.dtype, scale: float) -> None:
    values = torch.linspace(-1, 1, 64).half().to(dtype) * scale
    weight = values[torch.randperm(64, generator=torch.Generator().manual_seed(0)).repeat(50)]
    found = looked_up(weight.reshape(100, 32), 6).to(dtype).reshape(-1)
    torch.testing.assert_close(found, weight, rtol=1e-6, atol=0)


def test_zeros() -> None:
    assert not looked_up(torch.zeros(10, 10), 4).any()


def test_groups_have_palettes_of_their_own() -> None:
    weight = torch.tensor([[1.0, 2], [1, 2], [30, 40], [40, 30]]).half()
    assert torch.equal(looked_up(weight, 1, groups=2), weight.double())
    assert not torch.equal(looked_up(weight, 1), weight.double())


@given(st.sampled_from([1, 2, 3, 4, 6, 8]), st.data())
def test_packing(bits: int, data: st.DataObject) -> None:
    elements = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40)), np.uint8)
    packed = pack(elements, bits)
    assert len(packed) == -(-len(elements) * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits, len(elements)), elements)


@pytest.mark.parametrize("group_size", [None, 4])
@pytest.mark.parametrize("bits", [4, 8])
def test_integers_are_the_nearest(bits: int, group_size: int | None) -> None:
    weight = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    weight[2] = 0
    compression = Compression(linear=bits, group_size=group_size)  # type: ignore[arg-type]
    stored = encode("weight", weight, "float16", compression, modern=True).arguments
    scale = torch.from_numpy(stored["scale"].data.astype(np.float32))
    assert scale.shape == (6, 2 if group_size else 1, 1, 1)
    scale = scale.repeat_interleave(8 // scale.shape[1], 1)
    error = (torch.from_numpy(stored["data"].data.astype(np.float32)) * scale - weight).abs()
    assert bool((error <= scale / 2 * 1.01 + 1e-3 * weight.abs()).all())


@pytest.mark.parametrize("compression", [Compression(palettize=4), Compression(linear=8)])
def test_infinity_has_no_place(compression: Compression) -> None:
    weight = torch.full((4, 4), 1e6)
    with pytest.raises(NonFiniteWeights, match=r"conv_in\.weight"):
        encode("conv_in.weight", weight, "float16", compression, modern=False)
    assert encode("conv_in.weight", weight, "float32", compression, modern=False).arguments
