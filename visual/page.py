"""Report page: results, diagnostics, figures and commands of all runs under a folder, and how to read them.

    python -m visual.page runs/demo

writes ``runs/demo/index.html``, a single file that opens from disk: the table of ``engine.report``, curves
and warnings of trainings, and the figures of the other commands and scripts. With a ``commands.txt`` in the
folder, one command per line, it also shows which command produced what.
"""

import base64
import math
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.log import LOG_FILE
from engine.report import KEY_COLUMNS, REPOSITORY, results_by_folder, results_rows
from models.registry import SEPARATOR, stream_of
from options.parser import Parser, expanded_path
from utils.errors import UserError, run_script
from utils.files import atomic_write, check_output_file, find_files
from utils.standard_streams import encodable

from .curves import CHARTS, PRETRAINING, Training, labeled_curves, line_chart
from .plots import CONFUSION, GALLERY, TSNE, VIEWS, figure_svg

PAGE, COMMANDS = "index.html", "commands.txt"
COMMON_COLUMNS = ("representation", "dataset", "protocol", "seed")  # of the results
METHOD = REPOSITORY / "images" / "method.svg"
TEMPLATES = Path(__file__).with_name("templates")


def data_uri(content: bytes, suffix: str) -> str:
    """Return an image as a URI for the ``src`` of an ``<img>``; ``suffix`` is .png, .gif or .svg."""
    kind = {".svg": "svg+xml"}.get(suffix, suffix[1:])
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def write_page(path: Path, **values: Any) -> None:
    """Fill the template and write the page, atomically; all text except ``Markup`` is escaped."""
    loader, blocks = FileSystemLoader(TEMPLATES), {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **blocks)
    text = environment.get_template("page.html.j2").render(values)
    atomic_write(path, lambda file: file.write(encodable(text).encode()))


@dataclass(frozen=True)
class Exhibit:
    """A figure, table or gallery of the page and the commands that produced it."""

    heading: str = ""
    commands: list[str] = field(default_factory=list)
    image: str = ""  # data URI
    alt: str = ""
    size: str = ""  # CSS class: "small" shrinks to the window, "large" only to a minimum width
    note: str = ""
    rows: list[list[str]] = field(default_factory=list)  # a table; the first row is its header
    html: Markup | str = ""


class Runs:
    """The folder that the page is about: commands, results by folder, and trainings."""

    def __init__(self, folder: Path) -> None:
        self.folder, path = folder, folder / COMMANDS
        text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
        self.commands = text.splitlines()
        self.results = results_by_folder(folder)
        self.trainings: list[Training] = []
        self.problems: list[str] = []
        for path in find_files(folder, LOG_FILE):
            try:
                self.trainings.append(Training.read(path))
            except UserError as error:
                self.problems.append(str(error))

    def commands_for(self, *paths: Path) -> list[str]:
        """Return the commands that name one of the folders ``paths``."""
        names = {os.path.normpath(path) for path in paths}
        return [line for line in self.commands if names & {os.path.normpath(word) for word in line.split()}]

    def name(self, path: Path) -> str:
        """Return ``path`` relative to the folder, or the name of the folder itself."""
        relative = path.relative_to(self.folder)
        return encodable(str(relative) if relative.parts else self.folder.resolve().name)

    def figures(self, pattern: str, alt: str) -> dict[Path, Exhibit]:
        """Return an exhibit of each picture whose name matches ``pattern``."""
        exhibits = {}
        for path in find_files(self.folder, pattern):
            clip = f": {path.name.removesuffix(pattern[1:])}" if "*" in pattern else ""
            heading, commands = self.name(path.parent) + clip, self.commands_for(path.parent)
            image, size = data_uri(path.read_bytes(), path.suffix), "" if path.suffix == ".gif" else "large"
            exhibits[path] = Exhibit(heading, commands, image, alt, size)
        return exhibits

    def galleries(self) -> list[Exhibit]:
        """Return the content of ``<main>`` of each gallery page."""
        exhibits = []
        for path, exhibit in self.figures(GALLERY, "").items():
            if (page := path.with_name(PAGE)).is_file():
                main = page.read_text(encoding="utf-8").partition("<main>\n")[2].partition("</main>")[0]
                exhibits.append(replace(exhibit, image="", html=Markup(main)))
        return exhibits

    def charts(self, modes: Iterable[str]) -> list[Exhibit]:
        """Plot the charts of these modes, with a curve per run, or per run and pair or representation."""
        exhibits: list[Exhibit] = []
        trainings = {self.name(run.folder): run for run in self.trainings if run.mode in modes}
        for chart in CHARTS:
            if curves := labeled_curves(trainings, chart):
                image, note = "", f"{chart.meaning} After one epoch: {', '.join(curves)}."
                if any(len(points) > 1 for points in curves.values()):
                    image, note = data_uri(figure_svg(line_chart(curves, chart.label)), ".svg"), chart.meaning
                exhibits.append(Exhibit(chart.heading, [], image, chart.heading, "small", note))
        commands = self.commands_for(*(run.folder for run in trainings.values()))
        return [*exhibits, Exhibit(commands=commands)] if exhibits else []

    def streams(self, matrices: dict[Path, Exhibit]) -> list[Exhibit]:
        """Return the accuracies of fused classifiers, and take the confusion matrix of each fusion."""
        exhibits = []
        for folder, result in self.results.items():
            if "fusion" not in (numbers := result["numbers"]):
                continue
            rows = [["stream", "representation", "weight", "top-1 (%)", "top-5 (%)"]]
            for entry in [*numbers["single"], numbers["fusion"]]:
                title, name, weight = "fusion", entry.get("representation", ""), ""
                if name:
                    title = " and ".join(dict.fromkeys(map(stream_of, name.split(SEPARATOR))))
                    weight = f"{entry['weight']:g}"
                rows.append([title, name, weight, f"{entry['top1']:.1f}", f"{entry['top5']:.1f}"])
            exhibits.append(Exhibit(self.name(folder), rows=rows))
            if matrix := matrices.pop(folder / CONFUSION, None):
                exhibits.append(replace(matrix, heading="Confusion matrix of the fusion"))
        return exhibits


def split_common(rows: list[list[str]]) -> tuple[dict[str, str], list[list[str]]]:
    """Split off the columns of ``COMMON_COLUMNS`` that have the same value in all rows of a table."""
    columns = [[name, *values] for name, *values in zip(*rows)]
    common = {c[0]: c[1] for c in columns if c[0] in COMMON_COLUMNS and len(set(c[1:])) == 1}
    return common, [list(row) for row in zip(*(c for c in columns if c[0] not in common))]


def best_row(rows: list[list[str]]) -> int | None:
    """Return the number of the row of a table that has the most of the highest accuracies, if any has."""
    columns = [column for name, *column in zip(*rows) if name not in KEY_COLUMNS]
    values = [[float(cell or "nan") for cell in column] for column in columns]
    highest = [max((x for x in column if not math.isnan(x)), default=math.inf) for column in values]
    wins = [sum(x == high for x, high in zip(row, highest)) for row in zip(*values)]
    return wins.index(max(wins)) if len(wins) > 1 and max(wins) else None


def write_report(folder: Path) -> list[str]:
    """Write the page of ``folder`` to ``index.html`` there; return what could not be read."""
    runs = Runs(folder)
    common, results = split_common(results_rows([*runs.results.values()]))
    matrices = runs.figures(CONFUSION, "confusion matrix and accuracy per class")
    pretrainings = [run for run in runs.trainings if run.mode == PRETRAINING]
    write_page(
        folder / PAGE,
        title=f"Skeleton contrast: {folder.resolve().name}",
        method=data_uri(METHOD.read_bytes(), METHOD.suffix),
        common=", ".join(f"{name} {value}" for name, value in common.items()),
        results=results,
        best=best_row(results),
        problems=runs.problems,
        streams=runs.streams(matrices),  # before confusion: it takes some of the matrices
        views=[*runs.figures(VIEWS, "a clip and augmented views of it").values()],
        warnings=[f"{runs.name(run.folder)}: {line}" for run in pretrainings for line in run.warnings()],
        pretraining=runs.charts([PRETRAINING]),
        classifiers=runs.charts({chart.mode for chart in CHARTS} - {PRETRAINING}),
        gallery=runs.galleries(),
        feature_map=[*runs.figures(TSNE, "t-SNE maps of the features of validation clips").values()],
        confusion=[*matrices.values()],
        commands=runs.commands,
    )
    return runs.problems


def main() -> int:
    """Write the report page; returns the exit code."""
    parser = Parser(__doc__)
    parser.add_argument("folder", type=expanded_path, help="folder that contains runs")
    folder = Path(parser.parse_args().folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a folder that contains runs")
    check_output_file(folder / PAGE, "the page")
    for problem in write_report(folder):
        print(f"note: left out: {problem}", file=sys.stderr)
    print(f"written: {folder / PAGE}")
    return 0


if __name__ == "__main__":
    run_script(main)
