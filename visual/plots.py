"""Matplotlib figures that need no display, and line charts for the report page."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float]]  # (x, y) points

DOTS_PER_INCH = 110
MARKED_POINTS = 30  # curves of at most this many points have a marker at each
LABEL_WIDTH = 52  # characters per line of a legend
COLORS, LINE_STYLES = 10, ("-", "--", ":", "-.")  # after ten curves colors repeat, with another line style
SVG_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "visual"}  # text as text; the same file each time


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, unknown to pyplot, which may need a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def style_axes(axes: Axes) -> None:
    """Add a light grid and hide the frame at the top and on the right."""
    axes.grid(color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)


def without_math(text: str) -> str:
    """Escape ``$``, which Matplotlib reads as the start of a formula."""
    return text.replace("$", r"\$")


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    atomic_write(path, lambda file: figure.savefig(file, format="png"))


def figure_pixels(figure: Figure) -> Tensor:
    """Return a figure as uint8 (3, height, width)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1)


def figure_svg(figure: Figure) -> bytes:
    """Return a figure as SVG."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(SVG_SETTINGS):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def line_chart(curves: Mapping[str, Curve], y_label: str) -> bytes:
    """Plot curves over epochs as SVG, with a legend below."""
    from matplotlib.ticker import MaxNLocator

    labels = [textwrap.fill(without_math(name), LABEL_WIDTH) for name in curves]
    figure = new_figure(5.2, 2.8 + 0.2 * sum(label.count("\n") + 1 for label in labels))
    axes = figure.add_subplot()
    for number, (label, points) in enumerate(zip(labels, curves.values(), strict=True)):
        marker = "." if len(points) <= MARKED_POINTS else None
        epochs, values = zip(*points, strict=True)
        style = LINE_STYLES[number // COLORS % len(LINE_STYLES)]
        axes.plot(epochs, values, style, marker=marker, label=label, gid=f"curve-{number}")
    last = max(epoch for points in curves.values() for epoch, _ in points)
    axes.set_xlim(right=max(last, 1) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")
    axes.set_ylabel(y_label)
    style_axes(axes)
    figure.legend(loc="outside lower left", frameon=False)
    return figure_svg(figure)
