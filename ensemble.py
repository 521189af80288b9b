"""Fuse the scores of several classifiers, for example of the joint, bone and motion streams.

    python ensemble.py joint.npz bone.npz motion.npz --output-dir runs/three_streams

The files are written by action_classification.py --save-scores. The fused score of a class is the
weighted sum of the classifiers' softmax probabilities (or logits). Weights are given by the user; they
are not fitted to the validation clips.
"""

import argparse
from pathlib import Path

import torch

from engine.classifier import topk_accuracy
from engine.evaluation import results_folder
from engine.log import RunLog
from engine.report import write_results
from engine.scores import Scores, check_agreement, fuse, load_scores
from options.parser import NON_NEGATIVE, Parser, expanded_path
from utils.errors import UserError, run_script
from utils.files import exclusive_folder
from visual.confusion import report_confusion


def parse_args() -> argparse.Namespace:
    """Parse the flags."""
    parser = Parser(__doc__)
    parser.add_argument("scores", nargs="+", type=expanded_path, metavar="FILE.npz", help="two or more files")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=NON_NEGATIVE,
        metavar="W",
        help="one weight per file (default: equal weights)",
    )
    parser.add_argument(
        "--on",
        choices=["softmax", "logits"],
        default="softmax",
        help="what is summed (default: softmax)",
    )
    parser.add_argument(
        "--output-dir",
        type=expanded_path,
        default="runs/ensemble",
        metavar="DIR",
        help="folder for results.json and the confusion matrix (default: runs/ensemble)",
    )
    args = parser.parse_args()
    if len(args.scores) < 2:
        raise UserError("give the scores of at least two classifiers")
    args.weights = args.weights or [1.0] * len(args.scores)
    if len(args.weights) != len(args.scores):
        raise UserError(f"--weights has {len(args.weights)} entries for {len(args.scores)} files")
    if not any(args.weights):
        raise UserError("--weights: at least one weight must be above 0")
    return args


def describe(scores: list[Scores], args: argparse.Namespace) -> dict:
    """Return what was evaluated, for ``results.json``."""
    first = scores[0]
    return {
        "encoder": " + ".join(entry.encoder for entry in scores),
        "pretrained": " and ".join(args.scores),
        "representation": " + ".join(entry.representation for entry in scores),
        "dataset": first.dataset,
        "protocol": first.protocol,
        "seed": first.seed,
        "clips": {"val": len(first.names)},
        "flags": vars(args),
    }


def main() -> int:
    """Fuse the scores; returns the exit code."""
    args = parse_args()
    folder = results_folder(args, "ensemble")
    scores = [load_scores(Path(path)) for path in args.scores]
    check_agreement(scores)
    labels = torch.from_numpy(scores[0].labels)
    fused = fuse([entry.logits for entry in scores], args.weights, args.on)
    single = [topk_accuracy(torch.from_numpy(entry.logits), labels) for entry in scores]
    numbers = {
        "fusion": topk_accuracy(fused, labels),
        "single": [
            {"file": path, "weight": weight, "representation": entry.representation, **accuracy}
            for path, weight, entry, accuracy in zip(args.scores, args.weights, scores, single)
        ],
    }
    with exclusive_folder(folder, "--output-dir"):
        path = write_results(folder, "ensemble", describe(scores, args), numbers)
        for entry in numbers["single"]:
            name = f"{entry['file']} ({entry['representation']})"
            print(f"{name}: top-1 {entry['top1']:.2f}%, top-5 {entry['top5']:.2f}%")
        fusion = numbers["fusion"]
        print(f"fusion of {args.on}: top-1 {fusion['top1']:.2f}%, top-5 {fusion['top5']:.2f}%")
        print(f"written: {path}", flush=True)
        name_of = scores[0].class_names.tolist().__getitem__
        with RunLog(folder, args, 0) as log:
            lines = report_confusion(
                labels, fused.argmax(dim=1), name_of, folder, log, "ensemble/confusion", 0
            )
    print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    run_script(main)
