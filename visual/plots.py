"""Matplotlib figures that need no display, in the widths of a paper's columns."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from utils.files import atomic_write
from utils.standard_streams import encodable

CONFUSION, GALLERY, TSNE, VIEWS = "confusion.png", "gallery.png", "tsne.png", "*_views.gif"  # on the page
COLUMN_WIDTHS = {"one": 3.3, "two": 7.0}  # inches
# Ten colors that color-blind readers can tell apart (Tol, "muted", and black).
COLORS = "#332288 #cc6677 #117733 #88ccee #ddcc77 #882255 #44aa99 #999933 #aa4499 #000000".split()
matplotlib.rcParams |= {
    "font.size": 7.0,
    "axes.titlesize": 7.0,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "svg.fonttype": "none",  # text as text
    "svg.hashsalt": "visual",  # the same file each time
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
}


@dataclass(frozen=True)
class Style:
    """How figures are written, from the flags of ``options.parser.add_figure_flags``."""

    format: str = "png"
    dpi: int = 200
    columns: str = "two"

    @classmethod
    def of(cls, args: argparse.Namespace) -> Style:
        """Return the style of a script's flags."""
        return cls(args.format, args.dpi, args.width)

    @property
    def width(self) -> float:
        """Width of a figure in inches."""
        return COLUMN_WIDTHS[self.columns]

    def by_columns(self, one: Any, two: Any) -> Any:
        """Return the value for figures of this width."""
        return one if self.columns == "one" else two

    def save(self, path: Path, figure: Figure) -> Path:
        """Write ``path``, the PNG of the report page, and the chosen format, whose path is returned."""
        for kind in {"png", self.format}:
            content = figure_bytes(figure, kind, self.dpi)
            atomic_write(path.with_suffix(f".{kind}"), lambda file, content=content: file.write(content))
        return path.with_suffix(f".{self.format}")


DEFAULT = Style()


def new_figure(width: float, height: float, layout: str = "constrained") -> Figure:
    """Return an empty figure of this size in inches, unknown to pyplot, which may need a display."""
    return Figure(figsize=(width, height), dpi=110, layout=layout)


def style_axes(axes: Axes) -> None:
    """Add a light grid and hide the frame at the top and on the right."""
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(place: Axes | Figure, handles: Sequence[Any], names: Sequence[str], **style: Any) -> Legend:
    """Add a legend with any names; Matplotlib itself would omit those that begin with ``_``."""
    legend = place.legend(handles, [f"entry {i}" for i in range(len(names))], frameon=False, **style)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(without_math(name))
    return legend


def without_math(text: str) -> str:
    """Escape ``$``, which Matplotlib reads as the start of a formula."""
    return encodable(text).replace("$", r"\$")


def shortened(text: str, length: int) -> str:
    """Return a text of at most ``length`` characters."""
    return text if len(text) <= length else text[: length - 3] + "..."


def figure_pixels(figure: Figure) -> np.ndarray:
    """Return a figure as uint8 (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def figure_bytes(figure: Figure, kind: str, dpi: int | str = "figure") -> bytes:
    """Return a figure as a PNG, PDF or SVG file, without the time at which it was made."""
    file, time = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    figure.savefig(file, format=kind, dpi=dpi, metadata=time)
    return file.getvalue()


def figure_svg(figure: Figure) -> bytes:
    """Return a figure as SVG."""
    return figure_bytes(figure, "svg")
