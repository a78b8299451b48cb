"""How far a computed output is from its reference."""

from __future__ import annotations

import math

from torch import Tensor


def psnr_db(reference: Tensor, value: Tensor) -> float:
    """The peak signal-to-noise ratio in dB: 20 log10(max|reference| / rmse(reference, value)).

    Infinite when both are equal, minus infinity when either holds a non-finite number or when
    only the reference is zero throughout. Raises :class:`ValueError` when the shapes differ.
    """
    if reference.shape != value.shape:
        raise ValueError(
            f"cannot compare {list(value.shape)} with a reference of {list(reference.shape)}"
        )
    if not (reference.isfinite().all() and value.isfinite().all()):
        return -math.inf
    expected = reference.double()
    rmse = (expected - value.double()).square().mean().sqrt().item()
    peak = expected.abs().max().item()
    if rmse == 0:
        return math.inf
    return 20 * math.log10(peak / rmse) if peak > 0 else -math.inf
