"""The classes of a long clip over time, as predicted in sliding windows."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .plots import COLORS, Style, add_legend, new_figure, shortened, style_axes, without_math

SHOWN = 8  # classes


def plot_timeline(
    title: str, spans: np.ndarray, probabilities: np.ndarray, names: Sequence[str], style: Style
) -> Figure:
    """Plot the probabilities of the classes that are predicted most, over the middle frame of each window.

    ``spans`` (N, 2) are the first frame of each window and the one after its last; the lines have a gap where
    frames are in no window. ``probabilities`` are (N, C); ``names`` are those of the classes.
    """
    middle, wins = spans.mean(axis=1), np.bincount(probabilities.argmax(axis=1), minlength=len(names))
    shown = np.argsort(-(wins + probabilities.mean(axis=0)), kind="stable")[:SHOWN]
    gaps = np.flatnonzero(spans[1:, 0] > spans[:-1, 1]) + 1
    x, y = np.insert(middle, gaps, np.nan), np.insert(100 * probabilities, gaps, np.nan, axis=0)
    figure = new_figure(style.width, style.by_columns(2.4, 2.6))
    axes, marker = figure.add_subplot(), "." if len(middle) <= 60 else None
    lines = [axes.plot(x, y[:, k], color=COLORS[i], marker=marker)[0] for i, k in enumerate(shown)]
    axes.set(xlabel="frame", ylabel="probability (%)", ylim=(0, 102), xlim=(spans[0, 0], spans[-1, 1]))
    axes.set_title(without_math(shortened(title, style.by_columns(50, 110))))
    style_axes(axes)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24), "ncols": style.by_columns(2, 4)}
    add_legend(axes, lines, [shortened(names[k], 22) for k in shown], fontsize=6, **place)
    return figure
