"""Predict the classes of new clips with a trained classifier.

    python predict.py --classifier runs/mine/linear/probe_last.pth.tar --input new_clips/
    python predict.py --classifier runs/mine/finetuned --input recording.npy --window 60 --timeline figures

--classifier is a file that action_classification.py wrote, of a linear probe or of fine-tuning, or its
folder. --input takes what extract_features.py takes: .skeleton files, .npy arrays (frames, joints, 3,
people), .npz files of several such arrays, folders and zip archives of these, and stores, of the skeleton
that the encoders were trained on. The five most probable classes are printed, and written to --output.

With --window, long clips are cut into windows, each of which is classified as a clip of its own. In Python,
engine/api.py does the same with arrays.
"""

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from dataset.raw_clips import Span, read_raw_clips
from engine.api import classify, load_classifier
from engine.device import pick_device
from engine.report import format_as
from facts.class_names import short_class_names
from options import flags
from options.parser import POSITIVE_INT, Parser, add_figure_flags, expanded_path
from utils.errors import run_script
from utils.files import check_output_file, check_output_folder, safe_file_name, write_csv, write_json
from visual.plots import Style
from visual.timeline import plot_timeline

TOP = 5  # classes per clip
MAX_PRINTED = 40  # clips or windows; the output file contains all of them


def parse_args() -> argparse.Namespace:
    """Parse and check the flags."""
    parser = Parser(__doc__)
    path = {"type": expanded_path, "metavar": "PATH"}
    text = "probe_last.pth.tar, finetune_last.pth.tar, or the folder of one of them"
    parser.add_argument("--classifier", required=True, help=text, **path)
    text = "encoders of a linear probe, if they have moved (default: where they were when it was trained)"
    parser.add_argument("--pretrained", nargs="+", default=[], help=text, **path)
    text = "stores, or files, folders and zip archives of .skeleton, .npy and .npz files"
    parser.add_argument("--input", nargs="+", required=True, help=text, **path)
    text = "write the classes to this .csv or .json file; JSON has the probabilities of all classes"
    parser.add_argument("--output", help=text, **path)
    text = "classify windows of N frames (default: each clip as a whole, .skeleton files up to frame 300)"
    parser.add_argument("--window", type=POSITIVE_INT, metavar="N", help=text)
    text = "frames from one window to the next (default: half a window)"
    parser.add_argument("--stride", type=POSITIVE_INT, metavar="N", help=text)
    text = "folder for a figure per clip of its classes over time; needs --window"
    parser.add_argument("--timeline", help=text, **path)
    add_figure_flags(parser)
    flags.add_gpu_flag(parser.add_argument_group("run"))
    args = parser.parse_args()
    if args.window is None and (args.stride or args.timeline):
        parser.error("--stride and --timeline need --window")
    if args.output and not args.output.lower().endswith((".csv", ".json")):
        parser.error(f"--output {args.output}: the name of the file must end with .csv or .json")
    return args


def best_classes(row: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return the columns class_1, probability_1, class_2 and so on of a clip with probabilities (C,)."""
    columns: dict[str, Any] = {}
    for rank, label in enumerate(np.argsort(-row, kind="stable")[:TOP], start=1):
        columns |= {f"class_{rank}": names[label], f"probability_{rank}": round(float(row[label]), 4)}
    return columns


def print_table(predictions: Sequence[dict[str, Any]]) -> None:
    """Print the first predictions in aligned columns."""
    lines = [["clip", "frames", "classes"]]
    for entry in predictions[:MAX_PRINTED]:
        file, first, last, *cells = entry.values()
        found = [f"{name} {probability:.1%}" for name, probability in zip(cells[::2], cells[1::2])]
        lines.append([file, f"{first}-{last}", *found])
    print(format_as("text", lines))
    if len(predictions) > MAX_PRINTED:
        print(f"... and {len(predictions) - MAX_PRINTED} more")


def draw_timelines(
    folder: Path, spans: Sequence[Span], probabilities: np.ndarray, names: Sequence[str], style: Style
) -> list[Path]:
    """Write a figure per file; returns their paths."""
    paths = []
    for file, rows in groupby(range(len(spans)), lambda row: spans[row].file):
        index = [*rows]
        frames = np.array([spans[row][1:] for row in index])
        figure = plot_timeline(file, frames, probabilities[index], names, style)
        paths.append(style.save(folder / f"{safe_file_name(file)}.png", figure))
    return paths


def main() -> int:
    """Classify the clips; returns the exit code."""
    args = parse_args()
    output, folder = (path and Path(path) for path in (args.output, args.timeline))
    if output:
        check_output_file(output, "--output")
    if folder:
        check_output_folder(folder, "--timeline")
    classifier = load_classifier(args.classifier, args.pretrained).to(pick_device(args.gpu))
    names = short_class_names(classifier.class_names)
    windows = (args.window, args.stride or max(args.window // 2, 1)) if args.window else None
    skeleton, normalized = classifier.skeleton, classifier.normalized
    clips, left_out = read_raw_clips(args.input, "--input", skeleton, normalized, windows)
    for issue in left_out:
        print(f"left out: {issue}")
    probabilities = classify(classifier, clips).cpu().numpy()
    predictions = [
        {"clip": file, "first_frame": start + 1, "last_frame": stop, **best_classes(row, names)}
        for (file, start, stop), row in zip(clips.spans, probabilities)
    ]
    if output and output.suffix.lower() == ".csv":
        write_csv(output, [*predictions[0]], [[*entry.values()] for entry in predictions])
    elif output:
        every = [{**entry, "probabilities": p} for entry, p in zip(predictions, probabilities.tolist())]
        write_json(output, {"classifier": args.classifier, "class_names": names, "clips": every})
    style = Style.of(args)
    figures = draw_timelines(folder, clips.spans, probabilities, names, style) if folder else []
    print_table(predictions)
    for path in filter(None, [output, *figures]):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    run_script(main)
