"""Curves of trainings: the metrics of ``log.jsonl`` over epochs. ``charts.csv`` says how to read them."""

from __future__ import annotations

import csv
import json
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cycler import cycler
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.diagnostics import Warnings, named
from engine.log import CONFIG_FILE, read_log
from utils.errors import parse_errors

from .plots import new_figure, style_axes, without_math

Curve = Sequence[tuple[float, float]]  # (epoch, value) points

PRETRAINING = "pretraining"  # next to the names of --mode
MARKED_POINTS = 30  # curves of at most this many points have a marker at each
LABEL_WIDTH = 52  # characters per line of a legend
# After ten curves colors repeat, with another line style.
STYLES = cycler(linestyle=["-", "--", ":", "-."]) * cycler(color=colormaps["tab10"].colors)


class Chart(NamedTuple):
    """A metric of the runs of a mode, plotted over epochs, and how to read it."""

    mode: str  # PRETRAINING or a --mode
    metric: str
    heading: str
    label: str  # of the y axis
    meaning: str


with open(Path(__file__).with_name("charts.csv"), encoding="utf-8", newline="") as file:
    CHARTS = [Chart(**row) for row in csv.DictReader(file)]


@dataclass(frozen=True)
class Training:
    """The log of a pretraining or of the training of a classifier."""

    folder: Path
    mode: str
    epochs: int  # in total
    has_queue: bool  # of a pretraining
    log: list[dict[str, float]]

    @classmethod
    def read(cls, path: Path) -> Training:
        """Read a ``log.jsonl`` and its ``config.json``; raises ``UserError`` if one is damaged or missing."""
        with parse_errors(f"{path} cannot be read; remove it or run again"):
            config = json.loads(path.with_name(CONFIG_FILE).read_text(encoding="utf-8"))
            mode, epochs = config.get("mode", PRETRAINING), int(config.get("epochs", 0))
            log = [{name: float(value) for name, value in entry.items()} for entry in read_log(path)]
            main = next(chart.metric for chart in CHARTS if chart.mode == mode)
            log = [{main: entry[main], **entry} for entry in log]  # an epoch without it is damaged
        return cls(path.parent, mode, epochs, config.get("moco_k") != 0, log)

    def curves(self, metric: str) -> dict[str, Curve]:
        """Return the points (epoch, value) of a metric by pair or representation; the key may be empty."""
        curves = defaultdict(list)
        for entry in self.log:
            values = {"": entry[metric]} if metric in entry else named(entry, metric)
            for name, value in values.items():
                curves[name].append((entry["epoch"], value))
        return dict(curves)

    def warnings(self) -> list[str]:
        """Return the warnings that the pretraining printed."""
        warnings = Warnings(self.epochs, self.has_queue)
        return [text for entry in self.log for text in warnings.check(int(entry["epoch"]), entry)]


def labeled_curves(trainings: Mapping[str, Training], metric: str) -> dict[str, Curve]:
    """Return the curves of a metric of all runs by label: run, pair or representation, and last value."""
    labeled = {}
    for run, training in trainings.items():
        for name, points in training.curves(metric).items():
            title = f"{run} {name}".strip() if len(trainings) > 1 else name or run
            labeled[f"{title}: {points[-1][1]:.3g}"] = points
    return labeled


def line_chart(curves: Mapping[str, Curve], y_label: str) -> Figure:
    """Plot curves over epochs, with a legend below."""
    labels = [textwrap.fill(without_math(name), LABEL_WIDTH) for name in curves]
    figure = new_figure(5.2, 2.8 + 0.2 * sum(label.count("\n") + 1 for label in labels))
    axes = figure.add_subplot(prop_cycle=STYLES, xlabel="epoch", ylabel=y_label)
    for number, (label, points) in enumerate(zip(labels, curves.values(), strict=True)):
        marker = "." if len(points) <= MARKED_POINTS else None
        axes.plot(*zip(*points, strict=True), marker=marker, label=label, gid=f"curve-{number}")
    last = max(epoch for points in curves.values() for epoch, _ in points)
    axes.set_xlim(right=max(last, 1) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    style_axes(axes)
    figure.legend(loc="outside lower left", frameon=False)
    return figure
