"""Figures of matplotlib without a display, and saving them whole. Needs matplotlib where it draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from options.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches. pyplot, which would look for a display, has no part in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def save_figure(path: Path, drawn: Figure) -> None:
    atomic_write(path, lambda file: drawn.savefig(file, format="png"))


def figure_image(drawn: Figure) -> Tensor:
    """Return the pixels of a figure, ``(3, height, width)`` uint8."""
    drawn.canvas.draw()
    return torch.from_numpy(np.array(drawn.canvas.buffer_rgba()))[:, :, :3].permute(2, 0, 1)
