"""Which classes a classifier takes for which: a table, a picture, and the pairs it confuses most."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import numpy as np
from torch import Tensor

from engine.log import RunLog
from options.files import atomic_write

from .packages import PLOTS, why_not
from .plots import figure, figure_image, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE, TABLE = "confusion.png", "confusion.csv"
SHOWN = 5  # pairs and classes in the log
NUMBERED = 25  # up to so many classes, every cell of the picture has its number


@dataclass(frozen=True)
class Confusion:
    """Counts (C, C) of clips, row: what they are, column: what they were taken for.

    Only of classes that occur as either; ``labels`` (C,) says which, ``names`` how they are called.
    """

    counts: np.ndarray
    labels: list[int]
    names: list[str]

    @property
    def clips(self) -> np.ndarray:
        """Clips of each class, (C,)."""
        return self.counts.sum(axis=1)

    @property
    def accuracy(self) -> np.ndarray:
        """Percent right of each class, (C,); NaN for a class without clips."""
        with np.errstate(invalid="ignore"):
            return 100.0 * self.counts.diagonal() / self.clips


def count_confusion(labels: Tensor, predictions: Tensor, name_of: Callable[[int], str]) -> Confusion:
    """From labels and predicted labels (N,); ``name_of(label)`` names a class."""
    pairs = np.stack([labels.cpu().numpy(), predictions.cpu().numpy()])
    present, rows = np.unique(pairs, return_inverse=True)
    counts = np.zeros((len(present), len(present)), dtype=np.int64)
    np.add.at(counts, tuple(rows.reshape(2, -1)), 1)
    return Confusion(counts, present.tolist(), [name_of(label) for label in present.tolist()])


def most_confused(confusion: Confusion, count: int) -> list[tuple[int, int]]:
    """Positions (what it is, what it was taken for) of the most frequent errors, the worst first.

    Of equally frequent ones, first the greater share of its class.
    """
    wrong = confusion.counts.copy()
    np.fill_diagonal(wrong, 0)
    share = wrong / np.maximum(confusion.clips, 1)[:, None]
    order = np.lexsort((-share.ravel(), -wrong.ravel()))[:count]
    pairs = [divmod(int(cell), len(wrong)) for cell in order]
    return [(row, column) for row, column in pairs if wrong[row, column]]


def log_lines(confusion: Confusion) -> list[str]:
    """The most confused pairs, and the classes with the lowest and the highest accuracy."""
    names, clips, accuracy = confusion.names, confusion.clips, confusion.accuracy
    lines = ["most confused, of the last epoch:"]
    for row, column in most_confused(confusion, SHOWN):
        lines.append(f"  {names[row]}, taken for {names[column]}: "
                     f"{confusion.counts[row, column]} of {clips[row]} clips")
    if len(lines) == 1:
        lines = ["no clip was taken for another class"]
    order = [i for i in np.argsort(accuracy, kind="stable") if clips[i]]
    lowest, highest = order[:SHOWN], order[SHOWN:][-SHOWN:][::-1]
    for title, rows in (("lowest", lowest), ("highest", highest)):
        if rows:
            lines.append(f"{title} accuracy of a class: "
                         + ", ".join(f"{names[i]} {accuracy[i]:.0f}%" for i in rows))
    return lines


def csv_text(confusion: Confusion) -> str:
    """One row a class: number from zero, name, clips, percent right, and how often taken for each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "class", "clips", "accuracy", *confusion.names])
    for i, label in enumerate(confusion.labels):
        accuracy = f"{confusion.accuracy[i]:.2f}" if confusion.clips[i] else ""
        writer.writerow([label, confusion.names[i], confusion.clips[i], accuracy, *confusion.counts[i]])
    return text.getvalue()


def read_accuracy(path: Path) -> list[list[str]]:
    """Name, clips and percent right of each class, of a file that ``csv_text`` wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        return [row[1:4] for row in csv.reader(file)][1:]


def draw_confusion(confusion: Confusion) -> Figure:
    """The matrix in shares of each class, beside it the accuracy of each class. Needs matplotlib."""
    number = len(confusion.names)
    cell = 0.42 if number <= NUMBERED else 0.16  # inches
    font = 9 if number <= NUMBERED else 6.5
    side = cell * number
    drawn = figure(side + 5.2, side + 2.6)
    grid = drawn.add_gridspec(1, 2, width_ratios=[side, 1.6], wspace=0.08)
    matrix, bars = drawn.add_subplot(grid[0]), drawn.add_subplot(grid[1])
    share = confusion.counts / np.maximum(confusion.clips, 1)[:, None]
    matrix.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ticks = range(number)
    matrix.set_xticks(ticks, confusion.names, rotation=90, fontsize=font)
    matrix.set_yticks(ticks, confusion.names, fontsize=font)
    matrix.set_xlabel("taken for")
    matrix.set_ylabel("is")
    if number <= NUMBERED:
        for row, column in zip(*np.nonzero(confusion.counts)):
            colour = "white" if share[row, column] > 0.55 else "black"
            matrix.text(column, row, confusion.counts[row, column], ha="center", va="center",
                        fontsize=8, color=colour)
    accuracy = np.nan_to_num(confusion.accuracy)
    bars.barh(ticks, accuracy, color="#4a7fb5")
    bars.set_ylim(number - 0.5, -0.5)
    bars.set_xlim(0, 100)
    bars.set_yticks([])
    bars.set_xlabel("accuracy, %")
    return drawn


def report_confusion(
    labels: Tensor, predictions: Tensor, name_of: Callable[[int], str], folder: Path,
    log: RunLog | None = None, tag: str = "confusion", step: int = 0,
) -> list[str]:
    """Write ``confusion.csv`` and, with matplotlib, ``confusion.png`` and a TensorBoard figure.

    Args:
        labels, predictions: (N,) classes, counted from zero.
        name_of: the name of a class.
        tag, step: of the figure in ``log``.

    Returns:
        Lines for the log: the most confused pairs, accuracies of classes, where the files are.
    """
    confusion = count_confusion(labels, predictions, name_of)
    text = csv_text(confusion)
    atomic_write(folder / TABLE, lambda file: file.write(text.encode()))
    lines = [*log_lines(confusion), f"written: {folder / TABLE}"]
    reason = why_not(PLOTS)
    if reason:
        (folder / PICTURE).unlink(missing_ok=True)  # an earlier run's would be of other counts
        return [*lines, f"{PICTURE} is left out: {reason}"]
    drawn = draw_confusion(confusion)
    save_figure(folder / PICTURE, drawn)
    if log is not None:
        log.image(tag, figure_image(drawn), step)
    return [*lines, f"written: {folder / PICTURE}"]
