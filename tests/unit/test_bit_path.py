"""Bits chosen for groups of layers against the best there are, by trying all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepress.domain.recipe import Bits
from corepress_compile.allocate import grouped
from corepress_compile.bit_path import BitPath, Option

SIZES: Mapping[Bits, int] = {16: 16, 8: 8, 4: 4, 2: 2}
Options = Mapping[str, Mapping[Bits, Option]]


def options(weights: Mapping[str, tuple[int, list[float]]]) -> dict[str, dict[Bits, Option]]:
    """Of groups with so many elements and such damages under 8, 4 and 2 bits."""
    return {
        name: {
            bits: Option(bits * elements, damage)
            for bits, damage in zip(SIZES, [0.0, *damages], strict=True)
        }
        for name, (elements, damages) in weights.items()
    }


def totals(of: Options, bits: Mapping[str, Bits]) -> tuple[int, float]:
    chosen = [of[name][each] for name, each in bits.items()]
    return sum(o.size_bits for o in chosen), sum(o.damage for o in chosen)


DAMAGES = st.lists(st.integers(0, 1000).map(float), min_size=3, max_size=3)


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 9), DAMAGES), min_size=1))
def test_no_choice_of_a_size_does_less_damage(
    weights: Mapping[str, tuple[int, list[float]]],
) -> None:
    of = options(weights)
    path = BitPath(of)
    every = [
        totals(of, dict(zip(of, chosen, strict=True)))
        for chosen in itertools.product(SIZES, repeat=len(of))
    ]
    assert path.bits(0) == dict.fromkeys(of, 16)
    assert path.bits(len(path) - 1) == dict.fromkeys(of, 2)
    for steps in range(len(path)):
        size, damage = totals(of, path.bits(steps))
        assert size == path.sizes_bits[steps]
        assert path.damages[steps] >= damage
        least = min(its for other, its in every if other <= size)
        monotone = all(each[2] >= each[1] >= each[0] for _, each in weights.values())
        if monotone:
            assert damage == pytest.approx(least)


def test_a_size_and_a_damage_are_looked_up() -> None:
    path = BitPath(options({"a": (1, [1.0, 3.0, 9.0]), "b": (1, [8.0, 24.0, 72.0])}))
    assert path.sizes_bits == [32, 24, 20, 12, 10, 6, 4]
    assert path.first_within(32) == 0
    assert path.first_within(3) is None
    steps = path.first_within(24)
    assert steps is not None
    assert path.bits(steps) == {"a": 8, "b": 16}
    assert path.last_within(0.5) == 0
    assert path.bits(path.last_within(1.0)) == {"a": 8, "b": 16}
    assert path.last_within(1000.0) == len(path) - 1


def test_layers_are_grouped_by_where_they_stand() -> None:
    layers = ["mid.0.conv1", "mid.0.conv2", "mid.1.attn.to_q", "mid.1.attn.to_k", "conv_in"]
    assert grouped(layers, 5) == {layer: [layer] for layer in layers}
    assert list(grouped(layers, 4)) == ["mid.0.conv1", "mid.0.conv2", "mid.1.attn", "conv_in"]
    assert grouped(layers, 3) == {
        "mid.0": layers[:2],
        "mid.1": layers[2:4],
        "conv_in": ["conv_in"],
    }
    assert list(grouped(layers, 1)) == ["mid", "conv_in"]
    assert grouped([], 5) == {}
