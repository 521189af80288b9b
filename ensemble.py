"""Fuse the scores of several classifiers, for example of the joint, bone and motion streams.

    python ensemble.py joint.npz bone.npz motion.npz --output-dir runs/three_streams

The files are written by action_classification.py --save-scores. The fused score of a class is the
weighted sum of the classifiers' softmax probabilities (or logits). Weights are given by the user; they
are not fitted to the validation clips.
"""

import argparse
from pathlib import Path
from typing import Any

from options.parser import NON_NEGATIVE, Parser, add_figure_flags, add_overwrite_flag, expanded_path
from utils.errors import UserError, run_script
from utils.files import exclusive_folder


def parse_args() -> argparse.Namespace:
    """Parse the flags."""
    parser = Parser(__doc__)
    parser.add_argument("scores", nargs="+", type=expanded_path, metavar="FILE.npz", help="two or more files")
    text = "one weight per file (default: equal weights)"
    parser.add_argument("--weights", nargs="+", type=NON_NEGATIVE, metavar="W", help=text)
    text = "what is summed (default: softmax)"
    parser.add_argument("--on", choices=["softmax", "logits"], default="softmax", help=text)
    text = "folder for results.json and the confusion matrix (default: runs/ensemble)"
    parser.add_argument("--output-dir", type=expanded_path, metavar="DIR", help=text, default="runs/ensemble")
    add_figure_flags(parser)
    add_overwrite_flag(parser)
    args = parser.parse_args()
    args.weights = args.weights or [1.0] * len(args.scores)
    if len(args.scores) < 2:
        raise UserError("give the scores of at least two classifiers")
    if len(args.weights) != len(args.scores) or not any(args.weights):
        raise UserError(f"--weights: give {len(args.scores)} numbers, one per file, at least one above 0")
    return args


def main() -> int:
    """Fuse the scores; returns the exit code."""
    args = parse_args()
    # Imported late: PyTorch takes seconds.
    import torch

    from engine.classifier import accuracies
    from engine.evaluation import claim_folder, results_folder
    from engine.log import RunLog
    from engine.report import write_results
    from engine.scores import check_agreement, fuse, load_scores
    from visual.confusion import report_confusion
    from visual.plots import Style

    folder = results_folder(args, "ensemble", None)
    scores = [load_scores(Path(path)) for path in args.scores]
    check_agreement(scores)
    labels = torch.from_numpy(scores[0].labels)
    fused = fuse([entry.logits for entry in scores], args.weights, args.on)
    numbers: dict[str, Any] = {"fusion": accuracies(fused, labels), "single": []}
    for path, weight, entry in zip(args.scores, args.weights, scores):
        accuracy = accuracies(torch.from_numpy(entry.logits), labels)
        what = {"file": path, "weight": weight, "representation": entry.representation}
        numbers["single"].append({**what, **accuracy})
    metadata = {
        "encoder": " + ".join(entry.encoder for entry in scores),
        "pretrained": " and ".join(args.scores),
        "representation": " + ".join(entry.representation for entry in scores),
        "dataset": scores[0].dataset,
        "protocol": scores[0].protocol,
        "seed": scores[0].seed,
        "clips": {"val": len(labels)},
        "flags": vars(args),
    }
    with exclusive_folder(folder, "--output-dir"):
        claim_folder(folder, vars(args))
        path = write_results(folder, "ensemble", metadata, numbers)
        titles = [f"{entry['file']} ({entry['representation']})" for entry in numbers["single"]]
        for title, entry in zip([*titles, f"fusion of {args.on}"], [*numbers["single"], numbers["fusion"]]):
            print(f"{title}: top-1 {entry['top1']:.2f}%, top-5 {entry['top5']:.2f}%")
        print(f"written: {path}", flush=True)
        name_of = scores[0].class_names.tolist().__getitem__
        with RunLog(folder, args, 0) as log:
            predictions, tag = fused.argmax(dim=1), "ensemble/confusion"
            lines = report_confusion(labels, predictions, name_of, folder, log, tag, 0, Style.of(args))
            print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    run_script(main)
