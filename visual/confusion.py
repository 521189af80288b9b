"""Confusion matrix of a classifier: a table, a figure, and the most confused pairs of classes."""

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
    """Counts (C, C) of clips per true class (row) and predicted class (column); only classes that occur.

    ``labels``, ``names``, ``clips`` (number) and ``accuracy`` (percent, NaN without clips) are those of each
    class, ``share`` (C, C) the counts divided by ``clips``. ``name_of`` returns the name of a class.
    """

    def __init__(self, labels: Tensor, predictions: Tensor, name_of: Callable[[int], str]) -> None:
        pairs = np.stack([labels.cpu().numpy(), predictions.cpu().numpy()])
        present, rows = np.unique(pairs, return_inverse=True)
        self.counts = np.zeros((len(present), len(present)), dtype=np.int64)
        np.add.at(self.counts, tuple(rows.reshape(2, -1)), 1)
        self.labels = present.tolist()
        self.names = [name_of(label) for label in self.labels]
        self.clips = self.counts.sum(axis=1)
        self.share = self.counts / np.maximum(self.clips, 1)[:, None]
        with np.errstate(invalid="ignore"):
            self.accuracy = 100.0 * self.counts.diagonal() / self.clips

    def most_confused(self, count: int) -> list[tuple[int, int]]:
        """Return the (row, column) of the most frequent errors, then by their fraction of the class."""
        wrong = self.counts - np.diag(self.counts.diagonal())
        order = np.lexsort((-self.share.ravel(), -wrong.ravel()))[:count]
        pairs = [divmod(int(cell), len(wrong)) for cell in order]
        return [(row, column) for row, column in pairs if wrong[row, column]]


def log_lines(confusion: Confusion) -> list[str]:
    """Return the most confused pairs and the classes with the lowest and highest accuracy, for the log."""
    names, clips, accuracy = confusion.names, confusion.clips, confusion.accuracy
    pairs = confusion.most_confused(LOGGED)
    lines = ["most confused pairs (last epoch):" if pairs else "no misclassified clips"]
    lines += [f"  {names[i]} -> {names[j]}: {confusion.counts[i, j]} of {clips[i]} clips" for i, j in pairs]
    order = [i for i in np.argsort(accuracy, kind="stable") if clips[i]]
    for title, rows in (("lowest", order[:LOGGED]), ("highest", order[LOGGED:][-LOGGED:][::-1])):
        if rows:
            classes = ", ".join(f"{names[i]} {accuracy[i]:.0f}%" for i in rows)
            lines.append(f"{title} per-class accuracy: {classes}")
    return lines


def plot_confusion(confusion: Confusion, style: Style) -> Figure:
    """Plot fractions of each true class, and accuracies; counts and names are shown where there is room."""
    number, names = len(confusion.names), [shortened(name, 24) for name in confusion.names]
    label = LETTER * max(map(len, names))  # inches
    side = style.width - label - style.by_columns(0.75, 1.4)  # of the matrix
    figure = new_figure(style.width, side + label + 0.3)
    grid = figure.add_gridspec(1, 2, width_ratios=[side, style.by_columns(0.4, 1.0)], wspace=0.02)
    matrix, bars = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    matrix.imshow(confusion.share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    cell = 72 * side / number  # points
    named, font = range(0, number, math.ceil(SMALLEST / cell)), min(7, max(SMALLEST, cell))
    shown = [without_math(names[i]) for i in named]
    matrix.set_xticks(named, shown, rotation=90, fontsize=font)
    matrix.set_yticks(named, shown, fontsize=font)
    matrix.set(xlabel="predicted class", ylabel="true class")
    matrix.tick_params(length=2, width=0.5)
    if cell > 2 * SMALLEST:
        for row, column in np.argwhere(confusion.counts):
            color = "white" if confusion.share[row, column] > 0.55 else "black"
            look = {"fontsize": min(6, cell / 2.4), "ha": "center", "va": "center", "color": color}
            matrix.text(column, row, confusion.counts[row, column], **look)
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
    """Write ``TABLE``, ``CONFUSION`` and, with a log, a TensorBoard figure; return lines for the log."""
    confusion = Confusion(labels, predictions, name_of)
    accuracy = [f"{value:.2f}" if clips else "" for value, clips in zip(confusion.accuracy, confusion.clips)]
    rows = zip(confusion.labels, confusion.names, confusion.clips, accuracy, *confusion.counts.T)
    write_csv(folder / TABLE, ["label", "class", "clips", "accuracy", *confusion.names], rows)
    figure = plot_confusion(confusion, style)
    path = style.save(folder / CONFUSION, figure)
    if log is not None:
        log.image(tag, from_numpy(figure_pixels(figure)).permute(2, 0, 1), step)
    return [*log_lines(confusion), f"written: {folder / TABLE}", f"written: {path}"]
