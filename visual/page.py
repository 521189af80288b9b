"""Report page: results, curves, figures and commands of all runs under a folder.

    python -m visual.page runs/demo

writes ``runs/demo/index.html``, a single file that opens from disk. It shows the table of
``engine.report``, learning curves, and the figures of ``visual.clips``, ``--gallery``, ``--tsne`` and
the classifiers. If the folder contains ``commands.txt``, one command per line, the page also shows
which command produced what.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.log import CONFIG_FILE, LOG_FILE, read_log
from engine.report import read_results, results_rows
from options import flags
from options.errors import UserError, first_line, run_script
from options.files import check_output_file, find_files
from options.streams import encodable

from . import confusion, feature_map, gallery, load_error
from .markup import data_uri, main_part, write_page
from .plots import Curve, line_chart

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE, COMMANDS = "index.html", "commands.txt"
VIEWS = "*_views.gif"  # written by visual.clips
PRETRAINING = "pretraining"
CURVES = {  # mode -> metric in the log, heading and label of the y axis
    PRETRAINING: ("loss", "Pretraining: contrastive loss", "loss"),
    "linear": ("top1", "Linear probe: accuracy on the validation clips", "top-1 accuracy (%)"),
    "finetune": ("top1", "Fine-tuning: accuracy on the validation clips", "top-1 accuracy (%)"),
    "supervised": ("top1", "Supervised training: accuracy on the validation clips", "top-1 accuracy (%)"),
}


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
    """A heading, an explanation and exhibits, or the reason why there are none."""

    title: str
    explanation: str
    exhibits: list[Exhibit]
    missing: str


@dataclass(frozen=True)
class Runs:
    """The folder that the page is about and the commands that filled it."""

    folder: Path
    commands: list[str]

    def find(self, pattern: str) -> list[Path]:
        """Return the files under the folder that match ``pattern``."""
        return find_files(self.folder, pattern)

    def commands_for(self, path: Path) -> list[str]:
        """Return the commands that name the folder ``path``."""
        return [
            line for line in self.commands if os.path.normpath(path) in map(os.path.normpath, line.split())
        ]

    def name(self, path: Path) -> str:
        """Return ``path`` relative to the folder."""
        return encodable(str(path.relative_to(self.folder)))


def read_curves(runs: Runs) -> dict[str, dict[Path, Curve]]:
    """Return the points (epoch, value) of each run, by mode and folder of the run."""
    curves: dict[str, dict[Path, Curve]] = {mode: {} for mode in CURVES}
    for path in runs.find(LOG_FILE):
        try:
            config = json.loads(path.with_name(CONFIG_FILE).read_text(encoding="utf-8"))
            mode = config.get("mode", PRETRAINING)
            metric = CURVES[mode][0]
            points = [(entry["epoch"], entry[metric]) for entry in read_log(path)]
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}); remove it or run again") from error
        if points:
            curves[mode][path.parent] = points
    return curves


def curves_section(runs: Runs) -> Section:
    """Draw one chart per mode with a curve per run."""
    reason = load_error("Matplotlib")
    exhibits = []
    for mode, by_folder in read_curves(runs).items():
        if by_folder and not reason:
            _, heading, label = CURVES[mode]
            chart = line_chart({runs.name(folder): curve for folder, curve in by_folder.items()}, label)
            commands = [line for folder in by_folder for line in runs.commands_for(folder)]
            exhibits.append(Exhibit(commands, heading, data_uri(chart, ".svg"), heading, "small"))
    return Section(
        "Curves",
        "The progress of each run under this folder, by epoch.",
        exhibits,
        reason or "There are no curves under this folder",
    )


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
        "Augmented views",
        "A clip and random views of it. Pretraining learns to match the views of a clip and to distinguish "
        "them from the views of other clips. In a view, the skeleton before the spatial augmentation is "
        "gray, and jittered joints are marked.",
        exhibits,
        f"There are no views: {load_error('Pillow') or 'python -m visual.clips renders them'}",
    )


def gallery_section(runs: Runs) -> Section:
    """Collect the content of each gallery page."""
    pages = [path.with_name(gallery.PAGE) for path in runs.find(gallery.STRIP)]
    return Section(
        "Retrieval gallery",
        "",  # each gallery has its own introduction
        [Exhibit(runs.commands_for(page.parent), html=main_part(page)) for page in pages],
        f"There is no gallery: {load_error('Pillow') or 'action_retrieval.py --gallery writes one'}",
    )


def feature_map_section(runs: Runs) -> Section:
    """Collect the t-SNE maps."""
    exhibits = []
    for path in runs.find(feature_map.PICTURE):
        image = data_uri(path.read_bytes(), path.suffix)
        alt = "t-SNE maps of the features of validation clips"
        exhibits.append(Exhibit(runs.commands_for(path.parent), image=image, alt=alt, size="large"))
    return Section(
        "Feature map",
        "t-SNE maps of the features of validation clips with cosine distance. Each color and marker is a "
        "class. There are several samples of classes, because the choice of classes determines how well they "
        "separate.",
        exhibits,
        f"There is no feature map: {load_error('Matplotlib') or 'action_retrieval.py --tsne writes one'}",
    )


def confusion_section(runs: Runs) -> Section:
    """Collect the confusion matrix of each classifier, or its accuracies if there is no figure."""
    exhibits = []
    for path in runs.find(confusion.TABLE):
        lines, heading = runs.commands_for(path.parent), runs.name(path.parent)
        picture, accuracy = path.with_name(confusion.PICTURE), confusion.read_accuracy(path)
        if picture.is_file():
            image = data_uri(picture.read_bytes(), picture.suffix)
            # Scaled down, the names of many classes would be too small to read.
            size = "large" if len(accuracy) <= confusion.NUMBERED else ""
            alt = "confusion matrix and accuracy per class"
            exhibits.append(Exhibit(lines, heading, image, alt, size))
        else:
            note = f"There is no figure: {load_error('Matplotlib') or 'run the evaluation again'}"
            rows = [["class", "clips", "accuracy (%)"], *accuracy]
            exhibits.append(Exhibit(lines, heading, note=note, rows=rows))
    return Section(
        "Confusion matrix",
        "Validation clips per true class (row) and predicted class (column) after the last epoch, with the "
        "accuracy per class on the right.",
        exhibits,
        "No classifier was trained under this folder",
    )


def write_report(folder: Path) -> None:
    """Write the page of ``folder`` to ``index.html`` there."""
    path = folder / COMMANDS
    commands = (
        path.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if path.is_file() else []
    )
    runs = Runs(folder, commands)
    results = read_results(folder)
    sections = (curves_section, views_section, gallery_section, feature_map_section, confusion_section)
    write_page(
        folder / PAGE,
        "report.html.j2",
        title=f"Skeleton contrast: {folder.resolve().name}",
        results=results_rows(results) if results else [],
        sections=[section(runs) for section in sections],
        commands=commands,
    )


def main() -> int:
    """Write the report page; returns the exit code."""
    parser = flags.Parser(__doc__)
    parser.add_argument("folder", type=flags.path, help="folder that contains runs")
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
