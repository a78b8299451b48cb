"""Packed elements of 1 to 8 bits, as weight files and compressed weights hold them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BYTE_BITS = 8


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The first ``count`` elements of ``bits`` bits each, as unsigned numbers.

    Elements follow each other from the least to the most significant bit of each byte; one that
    crosses a byte has its low bits at the top of the first and its high bits at the bottom of the
    next (documented with ``constexpr_lut_to_dense`` in coremltools' ops/defs/iOS16).
    """
    period_bytes = math.lcm(bits, BYTE_BITS) // BYTE_BITS
    groups = np.zeros((math.ceil(len(packed) / period_bytes), period_bytes), np.uint8)
    groups.reshape(-1)[: len(packed)] = packed
    elements = np.empty((len(groups), period_bytes * BYTE_BITS // bits), np.uint8)
    for position in range(elements.shape[1]):
        byte, shift = divmod(position * bits, BYTE_BITS)
        element = groups[:, byte] >> shift
        if shift + bits > BYTE_BITS:
            element |= groups[:, byte + 1] << (BYTE_BITS - shift)
        elements[:, position] = element & ((1 << bits) - 1)
    return elements.reshape(-1)[:count]


def sign_extended(elements: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    """Unsigned numbers of ``bits`` bits read as two's complement."""
    shift = BYTE_BITS - bits
    return (elements << shift).view(np.int8) >> shift


def pack(elements: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of `unpack`: as few bytes as hold all elements, filled up with zeros."""
    period_bytes = math.lcm(bits, BYTE_BITS) // BYTE_BITS
    per_group = period_bytes * BYTE_BITS // bits
    groups = np.zeros((math.ceil(len(elements) / per_group), per_group), np.uint8)
    groups.reshape(-1)[: len(elements)] = elements
    packed = np.zeros((len(groups), period_bytes), np.uint8)
    for position in range(per_group):
        byte, shift = divmod(position * bits, BYTE_BITS)
        packed[:, byte] |= groups[:, position] << shift
        if shift + bits > BYTE_BITS:
            packed[:, byte + 1] |= groups[:, position] >> (BYTE_BITS - shift)
    return packed.reshape(-1)[: math.ceil(len(elements) * bits / BYTE_BITS)]
