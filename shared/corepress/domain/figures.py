"""The figures of a model: how far each of its outputs is from the checkpoint's own."""

from __future__ import annotations

from collections.abc import Mapping

Figures = Mapping[str, Mapping[str, float | None]]
"""Per output: ``conversion``, ``weights`` and, on request, ``native`` in dB; None where both sides
are exactly equal."""


def outputs_below(figures: Figures, least_db: float) -> dict[str, float]:
    """The outputs whose *conversion* figure, the only one that is gated, is below a threshold."""
    reached = {output: figure["conversion"] for output, figure in figures.items()}
    return {output: db for output, db in reached.items() if db is not None and db < least_db}
