"""One page of everything that was found out below a folder: results, curves, pictures, commands.

    python -m visual.page runs/demo

writes ``runs/demo/index.html``, which opens from disk; all pictures are inside. Shown are the table
of ``engine.report``, the curves that TensorBoard would show, and what --gallery, --tsne, the
classifiers and visual.clips have drawn below the folder. ``commands.txt`` there, one command a line,
tells which command made what.
"""

from __future__ import annotations

import os
import shlex
import sys
from html import escape
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.report import read_results, results_rows
from options.errors import UserError, run_script

from . import confusion, feature_map, gallery
from .chart import Curve, line_chart
from .markup import commands, main_part, page, save_page, section, table, wide_image
from .packages import PLOTS, SKELETONS, why_not

PAGE, COMMANDS = "index.html", "commands.txt"
EVENTS, VIEWS = "events.out.tfevents.*", "*_views.gif"
CURVES = {  # tag -> what it is
    "pretrain/loss": "loss of the contrast in pretraining",
    "probe/top1": "top-1 accuracy of the linear probe on the val clips, percent",
    "fine-tuning/top1": "top-1 accuracy of fine-tuning on the val clips, percent",
}


def read_commands(folder: Path) -> list[str]:
    path = folder / COMMANDS
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def commands_for(lines: list[str], folder: Path) -> list[str]:
    """Those command lines that name ``folder``."""
    wanted = os.path.normpath(folder)
    return [line for line in lines if wanted in map(os.path.normpath, shlex.split(line))]


def read_curves(folder: Path) -> dict[str, dict[Path, Curve]]:
    """``tag -> {folder of the events: [(step, value), ...]}`` for the tags of ``CURVES``."""
    curves: dict[str, dict[Path, Curve]] = {}
    for place in sorted({path.parent for path in folder.rglob(EVENTS)}):
        events = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
        for tag in CURVES.keys() & set(events.Tags()["scalars"]):
            curves.setdefault(tag, {})[place] = [(x.step, x.value) for x in events.Scalars(tag)]
    return {tag: curves[tag] for tag in CURVES if tag in curves}


def curves_section(folder: Path, lines: list[str]) -> str:
    """A chart for each tag, with a curve for each run."""
    parts = []
    for tag, runs in read_curves(folder).items():
        named = {str(place.relative_to(folder)): curve for place, curve in runs.items()}
        made = [line for place in runs for line in commands_for(lines, place)]
        parts += [line_chart(named, "epoch", CURVES[tag]), commands(made)]
    if not parts:
        parts = ["<p>There are no curves below this folder.</p>"]
    return section("Curves", *parts)


def absent(what: str, kind: str, how: str) -> str:
    """A sentence on pictures that are not there: why, and how to get them."""
    return f"<p>{escape(f'{what}: {why_not(kind) or how}.')}</p>"


def views_section(folder: Path, lines: list[str]) -> str:
    parts = []
    for path in sorted(folder.rglob(VIEWS)):
        name = path.name.removesuffix(VIEWS[1:])
        place = path.parent.relative_to(folder)
        parts += [f"<h3>{escape(f'{place}: {name}')}</h3>", wide_image(path, f"{name} and its augmented views"),
                  commands(commands_for(lines, path.parent))]
    explanation = (
        "<p>A clip and random views of it: what pretraining tells to be the same. The skeleton before "
        "the augmentation is grey, jittered joints are marked.</p>"
    )
    return section("What is contrasted", *([explanation, *parts] if parts else [
        absent("No views were drawn", SKELETONS, "python -m visual.clips draws them")]))


def gallery_section(folder: Path, lines: list[str]) -> str:
    parts = []
    for path in sorted(folder.rglob(gallery.STRIP)):
        parts += [main_part(path.with_name(gallery.PAGE)), commands(commands_for(lines, path.parent))]
    return section("Retrieval gallery", *(parts or [
        absent("No gallery was made", SKELETONS, "action_retrieval.py --gallery makes one")]))


def feature_map_section(folder: Path, lines: list[str]) -> str:
    parts = []
    for path in sorted(folder.rglob(feature_map.PICTURE)):
        parts += [wide_image(path, "t-SNE maps of the features of val clips", fit=True),
                  commands(commands_for(lines, path.parent))]
    explanation = (
        "<p>t-SNE maps of the features of the val clips, a colour for each class, by the cosine. "
        "Several draws of classes, because which classes it is decides how well they part.</p>"
    )
    return section("Feature map", *([explanation, *parts] if parts else [
        absent("No feature map was made", PLOTS, "action_retrieval.py --tsne makes one")]))


def confusion_section(folder: Path, lines: list[str]) -> str:
    parts = []
    for path in sorted(folder.rglob(confusion.TABLE)):
        parts.append(f"<h3>{escape(str(path.parent.relative_to(folder)))}</h3>")
        picture, accuracy = path.with_name(confusion.PICTURE), confusion.read_accuracy(path)
        if picture.is_file():
            fit = len(accuracy) <= confusion.NUMBERED  # names of more classes must stay as large
            parts.append(wide_image(picture, "confusion matrix and accuracy of each class", fit))
        else:
            parts.append(absent("The picture is missing", PLOTS, "run the evaluation again"))
            parts.append(table([["class", "clips", "accuracy, %"], *accuracy]))
        parts.append(commands(commands_for(lines, path.parent)))
    explanation = (
        "<p>Rows: what the val clips are. Columns: what they were taken for after the last epoch. "
        "On the right, the accuracy of each class.</p>"
    )
    return section("Confusion matrix", *([explanation, *parts] if parts else [
        "<p>No classifier was trained below this folder.</p>"]))


def build_page(folder: Path) -> str:
    """The page of ``folder`` as text."""
    results = read_results(folder)
    lines = read_commands(folder)
    found = [table(results_rows(results))] if results else ["<p>There are no results yet.</p>"]
    return page(
        f"Skeleton contrast: {folder.name}",
        section("Results", "<p>Accuracy in percent.</p>", *found),
        curves_section(folder, lines),
        views_section(folder, lines),
        gallery_section(folder, lines),
        feature_map_section(folder, lines),
        confusion_section(folder, lines),
        section("Commands", commands(lines, "All commands, in their order")) if lines else "",
    )


def main() -> int:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise UserError("usage: python -m visual.page FOLDER, a folder with runs below")
    folder = Path(sys.argv[1])
    save_page(folder / PAGE, build_page(folder))
    print(f"written: {folder / PAGE}")
    return 0


if __name__ == "__main__":
    run_script(main)
