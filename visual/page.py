"""Report page: results, diagnostics, figures and commands of all runs under a folder, and how to read them.

    python -m visual.page runs/demo

writes ``runs/demo/index.html``, a single file that opens from disk. It shows the table of
``engine.report``, the diagnostics of pretraining, accuracy curves, the fusion of ``ensemble.py``, and
the figures of ``visual.clips``, ``--gallery``, ``--tsne`` and the classifiers. If the folder contains
``commands.txt``, one command per line, the page also shows which command produced what.

The texts are in ``templates/report.html.j2``, those of the charts are in ``PRETRAINING_CHARTS``.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.diagnostics import Warnings, named
from engine.log import CONFIG_FILE, LOG_FILE, read_log
from engine.report import REPOSITORY, RESULTS, read_result, results_rows
from models.representations import SEPARATOR, stream_of
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
METHOD = REPOSITORY / "images" / "method.svg"
PRETRAINING = "pretraining"  # next to the names of --mode


@dataclass(frozen=True)
class Chart:
    """A metric of ``log.jsonl``, plotted over epochs, and how to read it."""

    mode: str
    metric: str
    heading: str
    label: str  # of the y axis
    meaning: str = ""


PRETRAINING_CHARTS = [
    Chart(
        PRETRAINING,
        "loss",
        "Contrastive loss",
        "loss",
        "The loss that is minimized (InfoNCE), summed over the pairs. It should fall. Its scale depends on "
        "the number of pairs and keys, so only runs with the same settings can be compared.",
    ),
    Chart(
        PRETRAINING,
        "relative_loss",
        "Loss relative to chance",
        "loss / ln(1 + K)",
        "The loss of each pair, divided by that of a model that guesses among the positive key and the K "
        "negative keys. At 1 nothing has been learned; a run that learns falls clearly below. Close to 0, "
        "the positive key is almost always found, and the task has little left to teach.",
    ),
    Chart(
        PRETRAINING,
        "contrastive_accuracy",
        "Contrastive accuracy",
        "accuracy (%)",
        "How often the positive key is more similar to the query than all negative keys. It should rise as "
        "the loss falls. If it is high while the loss stays close to chance, the encoder recognizes the age "
        "of a key instead of its clip.",
    ),
    Chart(
        PRETRAINING,
        "feature_rank",
        "Effective rank of the features",
        "effective rank",
        "How many dimensions the features of the sample effectively use (RankMe). Close to 1, all clips have "
        "nearly the same features: the encoder has collapsed. Higher is better, but only runs of the same "
        "encoder can be compared.",
    ),
    Chart(
        PRETRAINING,
        "embedding_rank",
        "Effective rank of the embeddings",
        "effective rank",
        "The same for the embeddings, which are computed from the features and compared in the loss.",
    ),
    Chart(
        PRETRAINING,
        "alignment",
        "Alignment",
        "squared distance",
        "Mean squared distance of the embeddings of two views of the same clip: 0 if they are identical, 2 "
        "if they are unrelated. Low is good, but only together with a low uniformity, because a collapsed "
        "encoder has an alignment of 0 as well.",
    ),
    Chart(
        PRETRAINING,
        "uniformity",
        "Uniformity",
        "uniformity",
        "How evenly the embeddings of different clips are spread over all directions: 0 if they are all the "
        "same (collapse), close to -4 if they are spread evenly. Lower is better.",
    ),
    Chart(
        PRETRAINING,
        "knn",
        "1-NN accuracy on training labels",
        "accuracy (%)",
        "How often the most similar other clip of the sample belongs to the same class. It should rise. "
        "Labels are used for this measurement only, not for pretraining.",
    ),
]
CLASSIFIER_CHARTS = [
    Chart("linear", "top1", "Linear probe", "top-1 accuracy (%)"),
    Chart("finetune", "top1", "Fine-tuning", "top-1 accuracy (%)"),
    Chart("supervised", "top1", "Supervised training", "top-1 accuracy (%)"),
]


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
class Training:
    """The log of a pretraining or of the training of a classifier."""

    folder: Path
    mode: str  # PRETRAINING or a --mode
    epochs: int  # in total
    log: list[dict[str, float]]

    @classmethod
    def read(cls, path: Path) -> Training:
        """Read a ``log.jsonl`` and the ``config.json`` next to it.

        Raises:
            UserError: one of them is damaged or missing.
        """
        try:
            config = json.loads(path.with_name(CONFIG_FILE).read_text(encoding="utf-8"))
            mode, epochs = config.get("mode", PRETRAINING), int(config.get("epochs", 0))
            metric = next(
                chart.metric for chart in PRETRAINING_CHARTS + CLASSIFIER_CHARTS if chart.mode == mode
            )
            log = [{name: float(value) for name, value in entry.items()} for entry in read_log(path)]
            if not all(metric in entry for entry in log):
                raise ValueError(f"an epoch has no {metric}")
        except (OSError, ValueError, TypeError, AttributeError, StopIteration) as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}); remove it or run again") from error
        return cls(path.parent, mode, epochs, log)

    def curves(self, metric: str) -> dict[str, Curve]:
        """Return the points (epoch, value) of a metric by pair or representation; the key may be empty."""
        curves = defaultdict(list)
        for entry in self.log:
            values = {"": entry[metric]} if metric in entry else named(entry, metric)
            for name, value in values.items():
                curves[name].append((entry["epoch"], value))
        return dict(curves)

    def warnings(self) -> list[str]:
        """Return the warnings of pretraining that apply to the last values of all metrics."""
        last: dict[str, float] = {}
        for entry in self.log:
            last |= entry
        return Warnings(self.epochs).check(int(last["epoch"]), last)


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


def labeled_curves(trainings: Mapping[str, Training], metric: str) -> dict[str, Curve]:
    """Return the curves of a metric of all runs by label: run, pair or representation, and last value."""
    labeled = {}
    for run, training in trainings.items():
        for name, points in training.curves(metric).items():
            title = f"{run} {name}".strip() if len(trainings) > 1 else name or run
            labeled[f"{title}: {points[-1][1]:.3g}"] = points
    return labeled


def charts_section(runs: Runs, charts: Sequence[Chart], missing: str) -> Section:
    """Draw the charts, with a curve per run, or per run and pair or representation."""
    reason = load_error("Matplotlib")
    exhibits = []
    for chart in [] if reason else charts:
        trainings = {runs.name(x.folder): x for x in runs.trainings if x.mode == chart.mode}
        if curves := labeled_curves(trainings, chart.metric):
            image = data_uri(line_chart(curves, chart.label), ".svg")
            exhibits.append(Exhibit([], chart.heading, image, chart.heading, "small", chart.meaning))
    modes = {chart.mode for chart in charts}
    commands = runs.commands_for(*(x.folder for x in runs.trainings if x.mode in modes))
    return Section(exhibits, reason or missing, commands=commands)


def pretraining_section(runs: Runs) -> Section:
    """Draw the diagnostics of pretraining and list the warnings of each run."""
    warnings = [
        f"{runs.name(training.folder)}: {line}"
        for training in runs.trainings
        if training.mode == PRETRAINING
        for line in training.warnings()
    ]
    section = charts_section(runs, PRETRAINING_CHARTS, "There are no curves of pretraining under this folder")
    return replace(section, warnings=warnings)


def classifiers_section(runs: Runs) -> Section:
    """Draw the accuracy of each classifier."""
    return charts_section(runs, CLASSIFIER_CHARTS, "There are no curves of classifiers under this folder")


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
    for path in runs.find(feature_map.PICTURE):
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
        for entry in [*numbers["single"], numbers["fusion"]]:
            name = entry.get("representation", "")
            streams = " and ".join(dict.fromkeys(map(stream_of, name.split(SEPARATOR))))
            weight = f"{entry['weight']:g}" if name else ""
            accuracies = [f"{entry[metric]:.1f}" for metric in ("top1", "top5")]
            rows.append([streams if name else "fusion", name, weight, *accuracies])
        exhibits.append(Exhibit([], runs.name(folder), rows=rows))
        if (folder / confusion.TABLE).is_file():
            exhibits.append(
                replace(confusion_exhibit(runs, folder), heading="Confusion matrix of the fusion")
            )
    return Section(exhibits)


def write_report(folder: Path) -> None:
    """Write the page of ``folder`` to ``index.html`` there."""
    runs = Runs.read(folder)
    write_page(
        folder / PAGE,
        "report.html.j2",
        title=f"Skeleton contrast: {folder.resolve().name}",
        method=data_uri(METHOD.read_bytes(), METHOD.suffix) if METHOD.is_file() else "",
        results=results_rows([*runs.results.values()]) if runs.results else [],
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
