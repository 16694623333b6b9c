"""Ratios with their spread as SVG, on one logarithmic scale around 1."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from benchmarks.chart import STYLE, TOP, WIDTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.bench_load import Ratio

_LEFT, _RIGHT, _ROW, _GAP = 300, 150, 18, 40


def svg(title: str, panels: Mapping[str, Sequence[tuple[str, Ratio]]]) -> str:
    """The whole picture: for each panel its title, and for each of its ratios a name, the spread and the median."""
    ratios = [ratio for rows in panels.values() for _, ratio in rows]
    first = min(-1, math.floor(math.log2(min(ratio.least for ratio in ratios))))
    last = max(1, math.ceil(math.log2(max(ratio.most for ratio in ratios))))

    def x(value: float) -> float:
        return _LEFT + (math.log2(value) - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)

    parts, top = [], TOP
    for heading, rows in panels.items():
        bottom = top + len(rows) * _ROW
        parts.append(f'<text class="title" x="0" y="{top - 8}">{escape(heading)}</text>')
        for power in range(first, last + 1):
            at = f"{x(2.0**power):.1f}"
            kind = "line" if power == 0 else "grid"
            parts.append(f'<line class="{kind}" x1="{at}" x2="{at}" y1="{top}" y2="{bottom}"/>')
            parts.append(f'<text x="{at}" y="{bottom + 15}" text-anchor="middle">{2.0**power:g}</text>')
        for number, (name, ratio) in enumerate(rows):
            middle = top + (number + 0.5) * _ROW
            parts += [
                f'<text x="{_LEFT - 12}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>',
                f'<line class="curve" x1="{x(ratio.least):.1f}" x2="{x(ratio.most):.1f}" y1="{middle}" y2="{middle}"/>',
                f'<circle class="curve" cx="{x(ratio.median):.1f}" cy="{middle}" r="4"/>',
                f'<text x="{WIDTH - _RIGHT + 12}" y="{middle + 4}">{ratio}</text>',
            ]
        top = bottom + _GAP + TOP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top - TOP}" role="img">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            *parts,
            "</svg>",
            "",
        ]
    )
