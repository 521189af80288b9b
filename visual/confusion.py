"""Confusion matrix of a classifier: a table, a figure, and the most confused pairs of classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, from_numpy

from engine.log import RunLog
from utils.files import write_csv

from .plots import CONFUSION, DEFAULT, Style, figure_pixels, new_figure, shortened, without_math

TABLE = "confusion.csv"
LOGGED = 5  # pairs and classes in the log
SMALLEST = 4.4  # points of a class name in the figure
LETTER = 0.056  # inches per letter of a class name


class Confusion:
    """Counts (C, C) of clips per true class (row) and predicted class (column).

    Only classes that occur as either are included. ``labels``, ``names``, ``clips`` (number) and
    ``accuracy`` (percent, NaN without clips) are those of each class.

    Args:
        labels, predictions: true and predicted labels, (N,) each.
        name_of: returns the name of a class.
    """

    def __init__(self, labels: Tensor, predictions: Tensor, name_of: Callable[[int], str]) -> None:
        pairs = np.stack([labels.cpu().numpy(), predictions.cpu().numpy()])
        present, rows = np.unique(pairs, return_inverse=True)
        self.counts = np.zeros((len(present), len(present)), dtype=np.int64)
        np.add.at(self.counts, tuple(rows.reshape(2, -1)), 1)
        self.labels = present.tolist()
        self.names = [name_of(label) for label in self.labels]
        self.clips = self.counts.sum(axis=1)
        with np.errstate(invalid="ignore"):
            self.accuracy = 100.0 * self.counts.diagonal() / self.clips

    def most_confused(self, count: int) -> list[tuple[int, int]]:
        """Return the (row, column) of the most frequent errors, then by their fraction of the class."""
        wrong = self.counts - np.diag(self.counts.diagonal())
        share = wrong / np.maximum(self.clips, 1)[:, None]
        order = np.lexsort((-share.ravel(), -wrong.ravel()))[:count]
        pairs = [divmod(int(cell), len(wrong)) for cell in order]
        return [(row, column) for row, column in pairs if wrong[row, column]]


def log_lines(confusion: Confusion) -> list[str]:
    """Return the most confused pairs and the classes with the lowest and highest accuracy, for the log."""
    names, clips, accuracy = confusion.names, confusion.clips, confusion.accuracy
    pairs = confusion.most_confused(LOGGED)
    lines = ["most confused pairs (last epoch):" if pairs else "no misclassified clips"]
    for row, column in pairs:
        count = f"{confusion.counts[row, column]} of {clips[row]} clips"
        lines.append(f"  {names[row]} -> {names[column]}: {count}")
    order = [i for i in np.argsort(accuracy, kind="stable") if clips[i]]
    for title, rows in (("lowest", order[:LOGGED]), ("highest", order[LOGGED:][-LOGGED:][::-1])):
        if rows:
            classes = ", ".join(f"{names[i]} {accuracy[i]:.0f}%" for i in rows)
            lines.append(f"{title} per-class accuracy: {classes}")
    return lines


def write_table(path: Path, confusion: Confusion) -> None:
    """Write one row per class: label, name, clips, accuracy in percent, and the counts of each prediction."""
    rows = []
    for i, label in enumerate(confusion.labels):
        accuracy = f"{confusion.accuracy[i]:.2f}" if confusion.clips[i] else ""
        rows.append([label, confusion.names[i], confusion.clips[i], accuracy, *confusion.counts[i]])
    write_csv(path, ["label", "class", "clips", "accuracy", *confusion.names], rows)


def plot_confusion(confusion: Confusion, style: Style) -> Figure:
    """Plot the matrix as fractions of each true class, with the accuracy per class on the right.

    Cells that are large enough show their count. If there are too many classes, every second (third, ...)
    one is named.
    """
    number, names = len(confusion.names), [shortened(name, 24) for name in confusion.names]
    label = LETTER * max(map(len, names))  # inches
    side = style.width - label - style.by_columns(0.75, 1.4)  # of the matrix
    figure = new_figure(style.width, side + label + 0.3)
    grid = figure.add_gridspec(1, 2, width_ratios=[side, style.by_columns(0.4, 1.0)], wspace=0.02)
    matrix, bars = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    share = confusion.counts / np.maximum(confusion.clips, 1)[:, None]
    matrix.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    cell = 72 * side / number  # points
    named, font = range(0, number, math.ceil(SMALLEST / cell)), min(7, max(SMALLEST, cell))
    shown = [without_math(names[i]) for i in named]
    matrix.set_xticks(named, shown, rotation=90, fontsize=font)
    matrix.set_yticks(named, shown, fontsize=font)
    matrix.set(xlabel="predicted class", ylabel="true class")
    matrix.tick_params(length=2, width=0.5)
    if cell > 2 * SMALLEST:
        for row, column in np.argwhere(confusion.counts):
            look = {
                "fontsize": min(6, cell / 2.4),
                "color": "white" if share[row, column] > 0.55 else "black",
            }
            matrix.text(column, row, confusion.counts[row, column], ha="center", va="center", **look)
    bars.barh(range(number), np.nan_to_num(confusion.accuracy), color="#4a7fb5")
    accuracy = style.by_columns("acc. (%)", "accuracy (%)")
    bars.set(ylim=(number - 0.5, -0.5), xlim=(0, 100), yticks=[], xlabel=accuracy, xticks=[0, 100])
    return figure


def report_confusion(
    labels: Tensor,
    predictions: Tensor,
    name_of: Callable[[int], str],
    folder: Path,
    log: RunLog | None = None,
    tag: str = "confusion",
    step: int = 0,
    style: Style = DEFAULT,
) -> list[str]:
    """Write ``confusion.csv``, ``confusion.png`` and, with a tag and step, a TensorBoard figure.

    See ``Confusion`` for the arguments. Returns ``log_lines`` and the files.
    """
    confusion = Confusion(labels, predictions, name_of)
    write_table(folder / TABLE, confusion)
    figure = plot_confusion(confusion, style)
    path = style.save(folder / CONFUSION, figure)
    if log is not None:
        log.image(tag, from_numpy(figure_pixels(figure)).permute(2, 0, 1), step)
    return [*log_lines(confusion), f"written: {folder / TABLE}", f"written: {path}"]
