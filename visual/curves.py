"""Curves of trainings: the metrics of ``log.jsonl`` over epochs. ``charts.csv`` says how to read them.

python -m visual.curves runs/demo/pretrained --out curves.pdf --width one
python -m visual.curves runs/a/linear runs/b/linear --out curves.pdf --metrics top1
"""

from __future__ import annotations

import csv
import json
import os
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.diagnostics import Warnings, named
from engine.log import CONFIG_FILE, LOG_FILE, read_log
from options.parser import Parser, add_figure_flags, expanded_path
from utils.errors import UserError, parse_errors, run_script
from utils.files import atomic_write, check_output_file

from .plots import COLORS, Style, add_legend, figure_bytes, new_figure, style_axes

Curve = Sequence[tuple[float, float]]  # (epoch, value) points

PRETRAINING = "pretraining"  # next to the names of --mode
FORMATS = ("png", "pdf", "svg")
LABEL_WIDTH = 44  # characters per line of a legend
MARKED_POINTS = 30  # curves of at most this many points have a marker at each
INSIDE = 6  # legends of more entries are below the axes
# After ten curves colors repeat, with another line style.
STYLES = cycler(linestyle=["-", "--", ":", "-."]) * cycler(color=COLORS)


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
                curves[name].append((entry["epoch"] + 1, value))
        return dict(curves)

    def warnings(self) -> list[str]:
        """Return the warnings that the pretraining printed."""
        warnings = Warnings(self.epochs, self.has_queue)
        return [text for entry in self.log for text in warnings.check(int(entry["epoch"]), entry)]


def labeled_curves(
    trainings: Mapping[str, Training], chart: Chart, with_last: bool = True
) -> dict[str, Curve]:
    """Return the curves of a chart's runs by label: run, pair or representation, and last value."""
    labeled, runs = {}, {run: each for run, each in trainings.items() if each.mode == chart.mode}
    for run, training in runs.items():
        for name, points in training.curves(chart.metric).items():
            title = f"{run} {name}".strip() if len(runs) > 1 else name or run
            labeled[f"{title}: {points[-1][1]:.3g}" if with_last else title] = points
    return labeled


def plot_curves(axes: Axes, curves: Mapping[str, Curve], y_label: str) -> None:
    """Plot curves over epochs, with a legend where there is room; below if it is long."""
    axes.set_prop_cycle(STYLES)
    lines = []
    for number, points in enumerate(curves.values()):
        marker = "." if len(points) <= MARKED_POINTS else None
        lines += axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, gid=f"curve-{number}")
    last = max(epoch for points in curves.values() for epoch, _ in points)
    axes.set_xlim(right=max(last, 1) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel="epoch", ylabel=y_label)
    style_axes(axes)
    names = [textwrap.fill(name, LABEL_WIDTH) for name in curves]
    below = {"loc": "upper left", "bbox_to_anchor": (0, -0.2)} if len(lines) > INSIDE else {"loc": "best"}
    add_legend(axes, lines, names, fontsize=6, **below)


def line_chart(curves: Mapping[str, Curve], y_label: str) -> Figure:
    """Plot curves over epochs for the report page."""
    rows = sum(len(name) // LABEL_WIDTH + 1 for name in curves) if len(curves) > INSIDE else 0
    figure = new_figure(4.2, 2.4 + 0.12 * rows)
    plot_curves(figure.add_subplot(), curves, y_label)
    return figure


def figure_of_runs(trainings: Mapping[str, Training], metrics: Sequence[str] | None, style: Style) -> Figure:
    """Plot the metrics of runs, by default all that have a curve; raises ``UserError`` if there is none."""
    charts = []
    for chart in CHARTS:
        curves = labeled_curves(trainings, chart, with_last=False)
        chosen = not metrics or chart.metric in metrics
        if chosen and any(len(points) > 1 for points in curves.values()):
            charts.append((chart, curves))
    if not charts:
        only = f" of --metrics {' '.join(metrics)}" if metrics else ""
        raise UserError(f"{', '.join(trainings)}: no curves of more than one epoch{only}")
    columns = min(style.by_columns(1, 2), len(charts))
    rows = -(-len(charts) // columns)
    height = min(0.62 * style.width / columns, 2.6)
    longest = max(len(curves) for _, curves in charts)
    figure = new_figure(style.width, rows * (height + (0.12 * longest if longest > INSIDE else 0)))
    for number, (chart, curves) in enumerate(charts, start=1):
        axes = figure.add_subplot(rows, columns, number)
        plot_curves(axes, curves, chart.label)
        axes.set_title(chart.heading)
    return figure


def main() -> int:
    """Plot the curves of runs; returns the exit code."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=expanded_path, metavar="RUN", help=f"folder with a {LOG_FILE}")
    add("--out", required=True, type=expanded_path, metavar="FILE", help="the figure")
    metrics = [*dict.fromkeys(chart.metric for chart in CHARTS)]
    add("--metrics", nargs="+", choices=metrics, metavar="NAME", help=", ".join(metrics))
    add_figure_flags(parser)
    args = parser.parse_args()
    path = Path(args.out)
    check_output_file(path, "--out")
    folders = [Path(run) for run in args.runs]
    if missing := [folder for folder in folders if not (folder / LOG_FILE).is_file()]:
        raise UserError(f"{missing[0]} has no {LOG_FILE}; give the folder of a run")
    common = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    trainings = {str(x.resolve().relative_to(common)): Training.read(x / LOG_FILE) for x in folders}
    path = path if path.suffix[1:] in FORMATS else Path(f"{path}.{args.format}")
    figure = figure_of_runs(trainings, args.metrics, Style.of(args))
    content = figure_bytes(figure, path.suffix[1:], args.dpi)
    atomic_write(path, lambda file: file.write(content))
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    run_script(main)
