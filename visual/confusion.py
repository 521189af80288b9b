"""Confusion matrix of a classifier: a table, a figure, and the most confused pairs of classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, from_numpy

from engine.log import RunLog
from utils.files import write_csv

from .plots import CONFUSION, figure_pixels, new_figure, save_figure, without_math

TABLE = "confusion.csv"
LOGGED = 5  # pairs and classes in the log
NUMBERED = 25  # up to this number of classes, every cell of the figure shows its count


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


def plot_confusion(confusion: Confusion) -> Figure:
    """Plot the matrix as fractions of each true class, with the accuracy per class on the right."""
    number = len(confusion.names)
    numbered = number <= NUMBERED
    cell, font = (0.42, 9) if numbered else (0.16, 6.5)  # inches, points
    side = cell * number
    figure = new_figure(side + 5.2, side + 2.6)
    grid = figure.add_gridspec(1, 2, width_ratios=[side, 1.6], wspace=0.08)
    matrix, bars = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    share = confusion.counts / np.maximum(confusion.clips, 1)[:, None]
    matrix.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ticks = range(number)
    names = [without_math(name) for name in confusion.names]
    matrix.set_xticks(ticks, names, rotation=90, fontsize=font)
    matrix.set_yticks(ticks, names, fontsize=font)
    matrix.set(xlabel="predicted class", ylabel="true class")
    if numbered:
        for row, column in np.argwhere(confusion.counts):
            style = {"fontsize": 8, "color": "white" if share[row, column] > 0.55 else "black"}
            matrix.text(column, row, confusion.counts[row, column], ha="center", va="center", **style)
    bars.barh(ticks, np.nan_to_num(confusion.accuracy), color="#4a7fb5")
    bars.set(ylim=(number - 0.5, -0.5), xlim=(0, 100), yticks=[], xlabel="accuracy (%)")
    return figure


def report_confusion(
    labels: Tensor,
    predictions: Tensor,
    name_of: Callable[[int], str],
    folder: Path,
    log: RunLog | None = None,
    tag: str = "confusion",
    step: int = 0,
) -> list[str]:
    """Write ``confusion.csv``, ``confusion.png`` and, with a tag and step, a TensorBoard figure.

    See ``Confusion`` for the arguments. Returns ``log_lines`` and the files.
    """
    confusion = Confusion(labels, predictions, name_of)
    write_table(folder / TABLE, confusion)
    figure = plot_confusion(confusion)
    save_figure(folder / CONFUSION, figure)
    if log is not None:
        log.image(tag, from_numpy(figure_pixels(figure)).permute(2, 0, 1), step)
    return [*log_lines(confusion), f"written: {folder / TABLE}", f"written: {folder / CONFUSION}"]
