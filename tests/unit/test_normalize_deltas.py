"""What factors make, held against the formulas of LyCORIS in torch, for convolutions in full shape.

The formulas: KohakuBlueleaf/LyCORIS, ``lycoris/functional/`` ``locon.py``, ``loha.py``, ``lokr.py``
and ``general.py`` (``rebuild_tucker``).
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from corepress.domain.checkpoint import AddendKind
from corepress.identify.lora.shapes import matrix_of
from corepress_normalize.deltas import delta

KERNEL = (3, 3)
OUTPUTS, INPUTS, RANK = 12, 10, 4


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """``rebuild_tucker``: up is (rank, outputs), down (rank, inputs)."""
    return torch.einsum("ij...,ip,jr->pr...", core, up, down)


def check(kind: AddendKind, factors: Mapping[str, Tensor], expected: Tensor) -> None:
    actual = delta(kind, {name: factor.numpy() for name, factor in factors.items()})
    assert actual.dtype == np.float32
    assert actual.shape == matrix_of(kind, {name: tuple(t.shape) for name, t in factors.items()})
    assert expected.std() > 0.1
    torch.testing.assert_close(torch.from_numpy(actual).reshape(expected.shape), expected)


def test_lora_of_a_linear_layer() -> None:
    up, down = random(OUTPUTS, RANK), random(RANK, INPUTS)
    check(AddendKind.LORA, {"up": up, "down": down}, up @ down)


def test_lora_of_a_convolution_is_two_convolutions_in_a_row() -> None:
    up, down = random(OUTPUTS, RANK, 1, 1), random(RANK, INPUTS, *KERNEL)
    image = random(1, INPUTS, 8, 8)
    twice = torch.conv2d(torch.conv2d(image, down), up)
    whole = delta(AddendKind.LORA, {"up": up.numpy(), "down": down.numpy()})
    once = torch.conv2d(image, torch.from_numpy(whole).reshape(OUTPUTS, INPUTS, *KERNEL))
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=1e-4)


def test_lora_with_a_core_is_three_convolutions_in_a_row() -> None:
    up, down = random(OUTPUTS, RANK, 1, 1), random(RANK + 1, INPUTS, 1, 1)
    core = random(RANK, RANK + 1, *KERNEL)
    factors = {"up": up, "down": down, "mid": core}
    expected = tucker(core, up[:, :, 0, 0].T, down[:, :, 0, 0])
    check(AddendKind.LORA, factors, expected)
    image = random(1, INPUTS, 8, 8)
    thrice = torch.conv2d(torch.conv2d(torch.conv2d(image, down), core), up)
    torch.testing.assert_close(torch.conv2d(image, expected), thrice, atol=1e-3, rtol=1e-3)


def low_rank(kernel: int = 1) -> dict[str, Tensor]:
    return {
        name: factor
        for number in (1, 2)
        for name, factor in (
            (f"w{number}_a", random(OUTPUTS, RANK + number)),
            (f"w{number}_b", random(RANK + number, INPUTS * kernel)),
        )
    }


@pytest.mark.parametrize("kernel", [(), KERNEL])
def test_loha(kernel: tuple[int, ...]) -> None:
    factors = low_rank(torch.Size(kernel).numel())
    product = (factors["w1_a"] @ factors["w1_b"]) * (factors["w2_a"] @ factors["w2_b"])
    check(AddendKind.LOHA, factors, product.reshape(OUTPUTS, INPUTS, *kernel))


def test_loha_with_cores() -> None:
    factors = {
        "w1_a": random(RANK, OUTPUTS),
        "w1_b": random(RANK, INPUTS),
        "w2_a": random(RANK, OUTPUTS) + 1,
        "w2_b": random(RANK, INPUTS) - 1,
        "t1": random(RANK, RANK, *KERNEL),
        "t2": random(RANK, RANK, *KERNEL) + 0.5,
    }
    halves = [tucker(factors[f"t{n}"], factors[f"w{n}_a"], factors[f"w{n}_b"]) for n in (1, 2)]
    check(AddendKind.LOHA, factors, halves[0] * halves[1])


FIRST = {
    "full": {"w1": random(3, 2)},
    "decomposed": {"w1_a": random(3, RANK), "w1_b": random(RANK, 2)},
}
SECOND = {
    "full": {"w2": random(4, 5, *KERNEL)},
    "flat": {"w2_a": random(4, RANK), "w2_b": random(RANK, 5 * 9)},
    "core": {
        "w2_a": random(RANK, 4),
        "w2_b": random(RANK, 5),
        "t2": random(RANK, RANK, *KERNEL),
    },
}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", SECOND)
def test_lokr(first: str, second: str) -> None:
    factors = {**FIRST[first], **SECOND[second]}
    left = factors["w1"] if first == "full" else factors["w1_a"] @ factors["w1_b"]
    right = {
        "full": lambda: factors["w2"],
        "flat": lambda: (factors["w2_a"] @ factors["w2_b"]).reshape(4, 5, *KERNEL),
        "core": lambda: tucker(factors["t2"], factors["w2_a"], factors["w2_b"]),
    }[second]()
    check(AddendKind.LOKR, factors, torch.kron(left[:, :, None, None], right.contiguous()))


def test_lokr_of_a_linear_layer() -> None:
    factors = {"w1": random(3, 2), "w2": random(4, 5)}
    check(AddendKind.LOKR, factors, torch.kron(factors["w1"], factors["w2"]))


SHAPES: dict[AddendKind, list[dict[str, tuple[int, ...]]]] = {
    AddendKind.LORA: [
        {"up": (4, 2, 1, 1), "down": (2, 5, 3, 3)},
        {"up": (4, 2, 1, 1), "down": (3, 5, 1, 1), "mid": (2, 3, 3, 3)},
    ],
    AddendKind.LOHA: [
        {"w1_a": (4, 2), "w1_b": (2, 45), "w2_a": (4, 3), "w2_b": (3, 45)},
        {
            **{"w1_a": (2, 4), "w1_b": (2, 5), "t1": (2, 2, 3, 3)},
            **{"w2_a": (3, 4), "w2_b": (2, 5), "t2": (3, 2, 3, 3)},
        },
    ],
    AddendKind.LOKR: [
        {"w1": (2, 5), "w2_a": (2, 3), "w2_b": (3, 9)},
        {"w1_a": (2, 3), "w1_b": (3, 5), "w2_a": (3, 2), "w2_b": (3, 1), "t2": (3, 3, 3, 3)},
    ],
    AddendKind.DIFFERENCE: [{"weight": (4, 5, 3, 3)}],
}


def altered(shape: tuple[int, ...], random: Random) -> tuple[int, ...]:
    """A shape with an axis left out, added, changed, or two of them swapped or joined."""
    axes = list(shape)
    at = random.randrange(len(axes) + 1)
    change = random.choice(("drop", "add", "size", "swap", "join"))
    if change == "add":
        axes.insert(at, random.choice((0, 1, 1, 2)))
    elif change == "drop":
        del axes[at:][:1]
    elif change == "size" and at < len(axes):
        axes[at] = random.choice((0, 1, axes[at] + 1, 2 * axes[at]))
    elif change == "swap":
        random.shuffle(axes)
    elif len(axes) > 1:
        axes[-2:] = [axes[-2] * axes[-1]]
    return tuple(axes)


@pytest.mark.parametrize("kind", AddendKind)
def test_whatever_shapes_are_let_pass_can_be_computed(kind: AddendKind) -> None:
    random = Random(kind)
    computed = 0
    for _ in range(2000):
        shapes = dict(random.choice(SHAPES[kind]))
        for _ in range(random.randrange(3)):
            name = random.choice(list(shapes))
            shapes[name] = altered(shapes[name], random)
        matrix = matrix_of(kind, shapes)
        if matrix and all(matrix):  # no weight is empty
            factors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
            assert delta(kind, factors).shape == matrix, shapes
            computed += 1
    assert computed > 500


def test_a_difference_is_itself() -> None:
    change = random(OUTPUTS, INPUTS, *KERNEL)
    check(AddendKind.DIFFERENCE, {"weight": change}, change)
    check(AddendKind.DIFFERENCE, {"bias": change[:, 0, 0, 0]}, change[:, 0, 0, 0])
