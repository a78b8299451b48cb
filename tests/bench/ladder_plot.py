"""Size against PSNR as a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corepress_compile.allocate import Allocation

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 40, 20, 60
_COLOURS = ("#0b6e4f", "#b5541c")
_STEP_DB = 10
_TICKS = 6


@dataclass(frozen=True)
class Curve:
    """A name, and points that all have a PSNR."""

    name: str
    points: Sequence[Allocation]


def plot(curves: Sequence[Curve], whole_bytes: int) -> str:
    """An SVG.

    Args:
        curves: to draw.
        whole_bytes: of the uncompressed weights.
    """
    points = [point for curve in curves for point in curve.points]
    most_db = max(point.psnr_db or 0 for point in points)
    most_db = _STEP_DB * (int(most_db // _STEP_DB) + 1)
    most_bytes = 1.1 * max(point.weight_bytes for point in points)

    def x(size_bytes: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * size_bytes / most_bytes

    def y(psnr_db: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * psnr_db / most_db

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for level in range(0, most_db + 1, _STEP_DB):
        parts.append(
            f'<path d="M{_LEFT} {y(level):.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 8}" y="{y(level) + 4:.1f}" text-anchor="end">{level}</text>'
        )
    for tick in range(_TICKS):
        size_bytes = most_bytes * tick / (_TICKS - 1)
        parts.append(
            f'<text x="{x(size_bytes):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{size_bytes / 1e6:.3g} MB</text>"
            f'<text x="{x(size_bytes):.1f}" y="{_HEIGHT - _BOTTOM + 32}" text-anchor="middle" '
            f'fill="#777">{100 * size_bytes / whole_bytes:.0f} %</text>'
        )
    for index, (curve, colour) in enumerate(zip(curves, _COLOURS, strict=False)):
        places = [(x(p.weight_bytes), y(p.psnr_db or most_db)) for p in curve.points]
        line = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3.5" fill="{colour}"/>'
            for across, up in places
        ]
        height = _TOP + 20 + 18 * index
        parts.append(f'<text x="{_LEFT + 14}" y="{height}" fill="{colour}">{curve.name}</text>')
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        "size of the weights, and of what float16 takes</text>"
        f'<text transform="translate(16 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
        'text-anchor="middle">PSNR of noise_pred, dB</text>'
    )
    return "\n".join([*parts, "</svg>", ""])
