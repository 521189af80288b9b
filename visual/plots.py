"""Matplotlib figures that need no display."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.files import atomic_write

CONFUSION, GALLERY, TSNE, VIEWS = "confusion.png", "gallery.png", "tsne.png", "*_views.gif"  # on the page
WIDTH, DPI = 7.0, 180  # inches of a film strip or a gallery, and its resolution
SVG_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "visual"}  # text as text; the same file each time


def new_figure(width: float, height: float, layout: str = "constrained") -> Figure:
    """Return an empty figure of this size in inches, unknown to pyplot, which may need a display."""
    return Figure(figsize=(width, height), dpi=110, layout=layout)


def style_axes(axes: Axes) -> None:
    """Add a light grid and hide the frame at the top and on the right."""
    axes.grid(color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)


def without_math(text: str) -> str:
    """Escape ``$``, which Matplotlib reads as the start of a formula."""
    return text.replace("$", r"\$")


def save_figure(path: Path, figure: Figure, dpi: float | str = "figure") -> None:
    """Write a figure as PNG, atomically."""
    atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=dpi))


def figure_pixels(figure: Figure) -> np.ndarray:
    """Return a figure as uint8 (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def figure_svg(figure: Figure) -> bytes:
    """Return a figure as SVG."""
    file = io.BytesIO()
    with rc_context(SVG_SETTINGS):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
