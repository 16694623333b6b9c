"""Curves over time as SVG: one panel for each, readable in light and in dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, PANEL, LEFT, RIGHT, TOP = 860, 120, 70, 16, 30
_GAP = 34
_POINTS = 600  # as many as the picture can show
STYLE = (
    "text{font:12px sans-serif;fill:#57606a}.title{font-weight:bold;fill:#24292f}.grid{stroke:#d0d7de;stroke-width:1}"
    ".curve{fill:none;stroke:#0969da;stroke-width:1.5}.line{stroke:#cf222e;stroke-width:1.5;stroke-dasharray:6 4}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.title{fill:#f0f6fc}.grid{stroke:#3d444d}"
    ".curve{stroke:#4493f8}.line{stroke:#f85149}}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One panel.

    Attributes:
        title: what it shows, with its unit.
        values: one for each moment.
        line: where a straight line through it begins and ends, as moment and value; None for no line.
    """

    title: str
    values: Sequence[float]
    line: tuple[tuple[float, float], tuple[float, float]] | None = None


def svg(title: str, minutes: Sequence[float], curves: Sequence[Curve]) -> str:
    """The whole picture, its panels one below the other over the same minutes."""
    height = TOP + len(curves) * (PANEL + _GAP) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
    ]
    for number, curve in enumerate(curves):
        parts += _panel(minutes, curve, TOP + number * (PANEL + _GAP))
    return "\n".join([*parts, "</svg>", ""])


def _panel(minutes: Sequence[float], curve: Curve, top: float) -> list[str]:
    ends = [value for _, value in curve.line] if curve.line else []
    ticks = _ticks(min(*curve.values, *ends), max(*curve.values, *ends))
    first, last = minutes[0], minutes[-1]

    def x(minute: float) -> float:
        return LEFT + (minute - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return top + PANEL - (value - ticks[0]) / (ticks[-1] - ticks[0]) * PANEL

    parts = [f'<text class="title" x="{LEFT}" y="{top - 8}">{escape(curve.title)}</text>']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts += [
        f'<text x="{x(minute):.1f}" y="{top + PANEL + 15}" text-anchor="middle">{minute:g} min</text>'
        for minute in _ticks(first, last, inside=True)
    ]
    step = max(1, len(minutes) // _POINTS)
    points = " ".join(f"{x(m):.1f},{y(v):.1f}" for m, v in list(zip(minutes, curve.values, strict=True))[::step])
    parts.append(f'<polyline class="curve" points="{points}"/>')
    if curve.line:
        (m0, v0), (m1, v1) = curve.line
        parts.append(
            f'<line class="line" x1="{x(m0):.1f}" y1="{y(v0):.1f}" x2="{x(m1):.1f}" y2="{y(v1):.1f}"/>',
        )
    return parts


def _ticks(low: float, high: float, *, inside: bool = False) -> list[float]:
    """Round numbers a round step apart, from below the lowest to above the highest, or between them."""
    rough = (high - low) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    begin, end = math.floor(low / step), math.ceil(high / step)
    if inside:
        begin, end = math.ceil(low / step), math.floor(high / step)
    elif begin == end:
        end += 1
    return [round(number * step, 9) for number in range(begin, end + 1)]
