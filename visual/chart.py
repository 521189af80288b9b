"""Line charts as SVG inside a page: curves without any package that draws."""

from __future__ import annotations

import math
from html import escape
from typing import Mapping, Sequence

Curve = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40  # margins
COLOURS = ("#005ab5", "#dc5000", "#00703a", "#a000a0", "#8a6d00", "#444444")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``wanted`` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, int(high / step + 1e-9) + 1)]


def line_chart(curves: Mapping[str, Curve], x_title: str, y_title: str) -> str:
    """An ``<svg>`` of curves ``name -> [(x, y), ...]``, and below it the names of several."""
    points = [point for curve in curves.values() for point in curve]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    y0, y1 = (y0, y1) if y1 > y0 else (y0 - 0.5, y1 + 0.5)
    x1 = x1 if x1 > x0 else x0 + 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value in ticks(y0, y1):
        _, y = place(x0, value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in filter(float.is_integer, map(float, ticks(x0, x1, 8))):
        x, _ = place(value, y0)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{value:g}</text>')
    for curve, colour in zip(curves.values(), _cycle(len(curves))):
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in curve)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
                 f"{escape(x_title)}</text>")
    names = [f'<span class="key" style="background: {colour}"></span>{escape(name)}'
             for name, colour in zip(curves, _cycle(len(curves)))]
    label = escape(f"{y_title} by {x_title}")
    return (
        f"<p>{escape(y_title)}</p>\n"
        f'<div class="scroll"><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{label}" '
        f'font-size="12" fill="#333">' + "\n".join(parts) + "</svg></div>\n"
        + (f"<p>{' '.join(names)}</p>" if len(curves) > 1 else "")
    )


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
