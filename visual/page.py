"""Report page: results, diagnostics, figures and commands of all runs under a folder, and how to read them.

    python -m visual.page runs/demo

writes ``runs/demo/index.html``, a single file that opens from disk. It shows the table of
``engine.report``, the diagnostics of pretraining, accuracy curves, the fusion of ``ensemble.py``, and
the figures of ``visual.clips``, ``--gallery``, ``--tsne`` and the classifiers. If the folder contains
``commands.txt``, one command per line, the page also shows which command produced what.

The texts are in ``templates/report.html.j2``, those of the charts in ``visual.curves``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.log import LOG_FILE
from engine.report import REPOSITORY, RESULTS, read_result, results_rows
from models.registry import SEPARATOR, stream_of
from options.parser import Parser, expanded_path
from utils.errors import UserError, run_script
from utils.files import check_output_file, find_files
from utils.standard_streams import encodable

from . import confusion, gallery, load_error, tsne
from .curves import CHARTS, PRETRAINING, Training, labeled_curves
from .markup import data_uri, main_part, write_page
from .plots import line_chart

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE, COMMANDS = "index.html", "commands.txt"
VIEWS = "*_views.gif"  # written by visual.clips
COMMON_COLUMNS = ("representation", "dataset", "protocol", "seed")  # of the results
METHOD = REPOSITORY / "images" / "method.svg"


@dataclass(frozen=True)
class Exhibit:
    """A figure, table or gallery of the page and the commands that produced it."""

    commands: list[str]
    heading: str = ""
    image: str = ""  # data URI
    alt: str = ""
    size: str = ""  # CSS class: "small" shrinks to the window, "large" only to a minimum width
    note: str = ""
    rows: list[list[str]] = field(default_factory=list)  # a table; the first row is its header
    html: Markup | str = ""


@dataclass(frozen=True)
class Section:
    """The exhibits of a section, or the reason why there are none."""

    exhibits: list[Exhibit]
    missing: str = ""
    warnings: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)  # of all exhibits together


@dataclass(frozen=True)
class Runs:
    """The folder that the page is about and what it contains."""

    folder: Path
    commands: list[str]
    results: dict[Path, dict]  # content of results.json by folder
    trainings: list[Training]

    @classmethod
    def read(cls, folder: Path) -> Runs:
        """Read commands, results and logs."""
        path = folder / COMMANDS
        text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
        results = {path.parent: read_result(path) for path in find_files(folder, RESULTS)}
        trainings = map(Training.read, find_files(folder, LOG_FILE))
        return cls(folder, text.splitlines(), results, [training for training in trainings if training.log])

    def find(self, pattern: str) -> list[Path]:
        """Return the files under the folder that match ``pattern``."""
        return find_files(self.folder, pattern)

    def commands_for(self, *paths: Path) -> list[str]:
        """Return the commands that name one of the folders ``paths``."""
        names = {os.path.normpath(path) for path in paths}
        return [line for line in self.commands if names & {os.path.normpath(word) for word in line.split()}]

    def name(self, path: Path) -> str:
        """Return ``path`` relative to the folder, or the name of the folder itself."""
        relative = path.relative_to(self.folder)
        return encodable(str(relative) if relative.parts else self.folder.resolve().name)


def charts_section(runs: Runs, modes: Iterable[str], missing: str) -> Section:
    """Plot the charts of these modes, with a curve per run, or per run and pair or representation."""
    reason = load_error("Matplotlib")
    exhibits: list[Exhibit] = []
    commands: list[str] = []
    for mode in modes:
        trainings = {
            runs.name(training.folder): training for training in runs.trainings if training.mode == mode
        }
        commands += runs.commands_for(*(training.folder for training in trainings.values()))
        for chart in [] if reason else CHARTS[mode]:
            if curves := labeled_curves(trainings, chart.metric):
                image = data_uri(line_chart(curves, chart.label), ".svg")
                exhibits.append(Exhibit([], chart.heading, image, chart.heading, "small", chart.meaning))
    return Section(exhibits, reason or missing, commands=commands)


def pretraining_section(runs: Runs) -> Section:
    """Plot the diagnostics of pretraining and list the warnings of each run."""
    warnings = [
        f"{runs.name(training.folder)}: {line}"
        for training in runs.trainings
        if training.mode == PRETRAINING
        for line in training.warnings()
    ]
    section = charts_section(runs, [PRETRAINING], "There are no curves of pretraining under this folder")
    return replace(section, warnings=warnings)


def classifiers_section(runs: Runs) -> Section:
    """Plot the accuracy of each classifier."""
    modes = [mode for mode in CHARTS if mode != PRETRAINING]
    return charts_section(runs, modes, "There are no curves of classifiers under this folder")


def views_section(runs: Runs) -> Section:
    """Collect the animations of ``visual.clips``."""
    exhibits = []
    for path in runs.find(VIEWS):
        name = path.name.removesuffix(VIEWS[1:])
        image = data_uri(path.read_bytes(), path.suffix)
        heading = f"{runs.name(path.parent)}: {name}"
        exhibits.append(
            Exhibit(runs.commands_for(path.parent), heading, image, f"{name} and augmented views of it")
        )
    return Section(
        exhibits, f"There are no views: {load_error('Pillow') or 'python -m visual.clips renders them'}"
    )


def gallery_section(runs: Runs) -> Section:
    """Collect the content of each gallery page."""
    exhibits = []
    for path in runs.find(gallery.STRIP):
        content = main_part(path.with_name(gallery.PAGE))
        exhibits.append(Exhibit(runs.commands_for(path.parent), runs.name(path.parent), html=content))
    return Section(
        exhibits,
        f"There is no gallery: {load_error('Pillow') or 'action_retrieval.py --gallery writes one'}",
    )


def feature_map_section(runs: Runs) -> Section:
    """Collect the t-SNE maps."""
    exhibits = []
    for path in runs.find(tsne.PICTURE):
        image = data_uri(path.read_bytes(), path.suffix)
        alt = "t-SNE maps of the features of validation clips"
        exhibits.append(
            Exhibit(runs.commands_for(path.parent), runs.name(path.parent), image, alt, size="large")
        )
    return Section(
        exhibits,
        f"There is no feature map: {load_error('Matplotlib') or 'action_retrieval.py --tsne writes one'}",
    )


def confusion_exhibit(runs: Runs, folder: Path) -> Exhibit:
    """Return the confusion matrix in a folder, or the accuracies per class if there is no figure."""
    commands, heading = runs.commands_for(folder), runs.name(folder)
    picture, accuracy = folder / confusion.PICTURE, confusion.read_accuracy(folder / confusion.TABLE)
    if picture.is_file():
        image = data_uri(picture.read_bytes(), picture.suffix)
        # Scaled down, the names of many classes would be too small to read.
        size = "large" if len(accuracy) <= confusion.NUMBERED else ""
        return Exhibit(commands, heading, image, "confusion matrix and accuracy per class", size)
    note = f"There is no figure: {load_error('Matplotlib') or 'run the evaluation again'}."
    return Exhibit(commands, heading, note=note, rows=[["class", "clips", "accuracy (%)"], *accuracy])


def confusion_section(runs: Runs) -> Section:
    """Collect the confusion matrices of single classifiers."""
    folders = [path.parent for path in runs.find(confusion.TABLE)]
    fused = fusions(runs)
    return Section(
        [confusion_exhibit(runs, folder) for folder in folders if folder not in fused],
        "No classifier was trained under this folder",
    )


def fusions(runs: Runs) -> dict[Path, dict]:
    """Return the numbers of each result of ``ensemble.py`` by folder."""
    numbers = {folder: result["numbers"] for folder, result in runs.results.items()}
    return {folder: found for folder, found in numbers.items() if "fusion" in found}


def streams_section(runs: Runs) -> Section:
    """Collect the accuracies of fused classifiers and the confusion matrix of each fusion."""
    exhibits = []
    for folder, numbers in fusions(runs).items():
        rows = [["stream", "representation", "weight", "top-1 (%)", "top-5 (%)"]]
        for entry in numbers["single"]:
            name = entry["representation"]
            streams = " and ".join(dict.fromkeys(map(stream_of, name.split(SEPARATOR))))
            rows.append([streams, name, f"{entry['weight']:g}", *top_accuracies(entry)])
        rows.append(["fusion", "", "", *top_accuracies(numbers["fusion"])])
        exhibits.append(Exhibit([], runs.name(folder), rows=rows))
        if (folder / confusion.TABLE).is_file():
            heading = "Confusion matrix of the fusion"
            exhibits.append(replace(confusion_exhibit(runs, folder), heading=heading))
    return Section(exhibits)


def top_accuracies(numbers: dict) -> list[str]:
    """Return top-1 and top-5 accuracy in percent."""
    return [f"{numbers[name]:.1f}" for name in ("top1", "top5")]


def split_common(rows: list[list[str]]) -> tuple[dict[str, str], list[list[str]]]:
    """Split off the columns of ``COMMON_COLUMNS`` that have the same value in all rows of a table."""
    common = {
        name: values[0] for name, *values in zip(*rows) if name in COMMON_COLUMNS and len(set(values)) == 1
    }
    kept = [column for column, name in enumerate(rows[0]) if name not in common]
    return common, [[row[column] for column in kept] for row in rows]


def write_report(folder: Path) -> None:
    """Write the page of ``folder`` to ``index.html`` there."""
    runs = Runs.read(folder)
    common, results = split_common(results_rows([*runs.results.values()]))
    write_page(
        folder / PAGE,
        "report.html.j2",
        title=f"Skeleton contrast: {folder.resolve().name}",
        method=data_uri(METHOD.read_bytes(), METHOD.suffix) if METHOD.is_file() else "",
        common=common,
        results=results,
        streams=streams_section(runs),
        views=views_section(runs),
        pretraining=pretraining_section(runs),
        classifiers=classifiers_section(runs),
        gallery=gallery_section(runs),
        feature_map=feature_map_section(runs),
        confusion=confusion_section(runs),
        commands=runs.commands,
    )


def main() -> int:
    """Write the report page; returns the exit code."""
    parser = Parser(__doc__)
    parser.add_argument("folder", type=expanded_path, help="folder that contains runs")
    folder = Path(parser.parse_args().folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a folder that contains runs")
    if reason := load_error("Jinja2"):
        raise UserError(reason)
    check_output_file(folder / PAGE, "the page")
    write_report(folder)
    print(f"written: {folder / PAGE}")
    return 0


if __name__ == "__main__":
    run_script(main)
