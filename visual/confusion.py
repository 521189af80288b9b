"""Confusion matrix of a classifier: a table, a figure, and the most confused pairs of classes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from engine.log import RunLog
from utils.files import write_csv

from . import load_error
from .plots import figure_pixels, new_figure, save_figure, without_math

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE, TABLE = "confusion.png", "confusion.csv"
LOGGED = 5  # pairs and classes in the log
NUMBERED = 25  # up to this number of classes, every cell of the figure shows its count


@dataclass(frozen=True)
class Confusion:
    """Counts (C, C) of clips per true class (row) and predicted class (column).

    Only classes that occur as either are included; ``labels`` and ``names`` list them.
    """

    counts: np.ndarray
    labels: list[int]
    names: list[str]

    @property
    def clips(self) -> np.ndarray:
        """Number of clips per class, (C,)."""
        return self.counts.sum(axis=1)

    @property
    def accuracy(self) -> np.ndarray:
        """Accuracy per class in percent, (C,); NaN for a class without clips."""
        with np.errstate(invalid="ignore"):
            return 100.0 * self.counts.diagonal() / self.clips


def count_confusion(labels: Tensor, predictions: Tensor, name_of: Callable[[int], str]) -> Confusion:
    """Count the pairs of true and predicted labels, (N,) each; ``name_of(label)`` names a class."""
    pairs = np.stack([labels.cpu().numpy(), predictions.cpu().numpy()])
    present, rows = np.unique(pairs, return_inverse=True)
    counts = np.zeros((len(present), len(present)), dtype=np.int64)
    np.add.at(counts, tuple(rows.reshape(2, -1)), 1)
    return Confusion(counts, present.tolist(), [name_of(label) for label in present.tolist()])


def most_confused(confusion: Confusion, count: int) -> list[tuple[int, int]]:
    """Return the (row, column) positions of the most frequent errors, in descending order.

    Of equally frequent errors, the one with the larger fraction of its class is first.
    """
    wrong = confusion.counts.copy()
    np.fill_diagonal(wrong, 0)
    share = wrong / np.maximum(confusion.clips, 1)[:, None]
    order = np.lexsort((-share.ravel(), -wrong.ravel()))[:count]
    pairs = [divmod(int(cell), len(wrong)) for cell in order]
    return [(row, column) for row, column in pairs if wrong[row, column]]


def log_lines(confusion: Confusion) -> list[str]:
    """Return the most confused pairs and the classes with the lowest and highest accuracy, for the log."""
    names, clips, accuracy = confusion.names, confusion.clips, confusion.accuracy
    pairs = most_confused(confusion, LOGGED)
    lines = ["most confused pairs (last epoch):" if pairs else "no misclassified clips"]
    for row, column in pairs:
        lines.append(
            f"  {names[row]} -> {names[column]}: {confusion.counts[row, column]} of {clips[row]} clips"
        )
    order = [i for i in np.argsort(accuracy, kind="stable") if clips[i]]
    lowest, highest = order[:LOGGED], order[LOGGED:][-LOGGED:][::-1]
    for title, rows in (("lowest", lowest), ("highest", highest)):
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


def read_accuracy(path: Path) -> list[list[str]]:
    """Read the name, clips and accuracy of each class from a file of ``write_table``."""
    with open(path, newline="", encoding="utf-8") as file:
        return [row[1:4] for row in csv.reader(file)][1:]


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
    matrix.set_xlabel("predicted class")
    matrix.set_ylabel("true class")
    if numbered:
        for row, column in np.argwhere(confusion.counts):
            color = "white" if share[row, column] > 0.55 else "black"
            count = confusion.counts[row, column]
            matrix.text(column, row, count, ha="center", va="center", fontsize=8, color=color)
    bars.barh(ticks, np.nan_to_num(confusion.accuracy), color="#4a7fb5")
    bars.set_ylim(number - 0.5, -0.5)
    bars.set_xlim(0, 100)
    bars.set_yticks([])
    bars.set_xlabel("accuracy (%)")
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
    """Write ``confusion.csv``, ``confusion.png`` and a TensorBoard figure.

    If Matplotlib cannot be loaded, only the table is written.

    Args:
        labels, predictions: true and predicted labels, (N,) each.
        name_of: returns the name of a class.
        tag, step: of the figure in ``log``.

    Returns:
        Lines for the log: the most confused pairs, accuracies per class, and the files.
    """
    confusion = count_confusion(labels, predictions, name_of)
    write_table(folder / TABLE, confusion)
    lines = [*log_lines(confusion), f"written: {folder / TABLE}"]
    if reason := load_error("Matplotlib"):
        (folder / PICTURE).unlink(missing_ok=True)  # that of an earlier run would not match the table
        return [*lines, f"{PICTURE} skipped: {reason}"]
    figure = plot_confusion(confusion)
    save_figure(folder / PICTURE, figure)
    if log is not None:
        log.image(tag, figure_pixels(figure), step)
    return [*lines, f"written: {folder / PICTURE}"]
