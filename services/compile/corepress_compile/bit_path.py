"""From the damage that palettes do to each group of layers to the bits that each should have.

Damages of different groups add up, as the errors that they cause do not depend on each other. So
the best bits of all groups for some size are those that a price for a bit makes best for each group
by itself: the lower convex hull of its sizes and damages. Source: Shoham and Gersho, "Efficient bit
allocation for an arbitrary set of quantizers", 1988.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from corepress.domain.recipe import UNCOMPRESSED_BITS, Bits


@dataclass(frozen=True, slots=True)
class Option:
    """What a group takes and costs under some bits: ``size_bits`` in all, ``damage`` as a share of
    the outputs' squared range."""

    size_bits: int
    damage: float


@dataclass(frozen=True, slots=True)
class _Step:
    group: str
    bits: Bits
    saved_bits: int
    added_damage: float


class BitPath:
    """Ever smaller choices of bits, each the least damage for its size.

    It begins with no group compressed; every step gives one group fewer bits.
    """

    def __init__(self, options: Mapping[str, Mapping[Bits, Option]]) -> None:
        """Order the steps.

        Args:
            options: of each group, by bits, among them `UNCOMPRESSED_BITS`.
        """
        self._groups = list(options)
        # of equal worth, the first group goes first; steps of one group keep their order
        self._steps = sorted(
            (step for group, its in options.items() for step in _hull(group, its)),
            key=lambda step: step.added_damage / step.saved_bits,
        )
        whole_bits = sum(its[UNCOMPRESSED_BITS].size_bits for its in options.values())
        self.sizes_bits: Sequence[int] = list(
            accumulate((-step.saved_bits for step in self._steps), initial=whole_bits)
        )
        """Of all groups, after each number of steps."""
        self.damages: Sequence[float] = list(
            accumulate((step.added_damage for step in self._steps), initial=0.0)
        )
        """Expected, after each number of steps."""

    def __len__(self) -> int:
        """How many choices there are."""
        return len(self.sizes_bits)

    def bits(self, steps: int) -> dict[str, Bits]:
        """The bits of every group after a number of steps."""
        chosen: dict[str, Bits] = dict.fromkeys(self._groups, UNCOMPRESSED_BITS)
        chosen.update((step.group, step.bits) for step in self._steps[:steps])
        return chosen

    def first_within(self, size_bits: int) -> int | None:
        """The fewest steps to a size, None where no number of them leads to it."""
        return next((n for n, size in enumerate(self.sizes_bits) if size <= size_bits), None)

    def last_within(self, damage: float) -> int:
        """The most steps within an expected damage."""
        return sum(expected <= damage for expected in self.damages) - 1


def _hull(group: str, options: Mapping[Bits, Option]) -> Iterator[_Step]:
    """The steps of one group from no compression downwards, each worth less than that before it."""
    here = options[UNCOMPRESSED_BITS]
    while smaller := {b: o for b, o in options.items() if o.size_bits < here.size_bits}:
        bits, there = min(
            smaller.items(), key=lambda each: (_worth(here, each[1]), each[1].size_bits)
        )
        yield _Step(
            group, bits, here.size_bits - there.size_bits, max(0.0, there.damage - here.damage)
        )
        here = there


def _worth(here: Option, there: Option) -> float:
    """The damage for every bit that is saved."""
    return max(0.0, there.damage - here.damage) / (here.size_bits - there.size_bits)
