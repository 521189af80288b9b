"""Label efficiency: fine-tuning a pretrained encoder compared with supervised training.

    python benchmarks/few_labels.py --pretrained runs/demo/pretrained/checkpoint_0059.pth.tar \\
        --data-root runs/demo/data --runs runs/few_labels_demo

Both use the same clips, number of epochs and learning rates; the table has one row per learning rate.
Each runs with several label subsets: mean and sample standard deviation of the top-1 accuracy on the
validation clips, and the number of subsets on which fine-tuning is better. Finished runs are skipped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads do not speed up small encoders

from engine.checkpoint import load_checkpoint
from engine.report import RESULTS, format_table, read_result
from options.errors import check_stdout, run_script
from options.files import check_output_folder
from options.flags import COUNT, POSITIVE, POSITIVE_FRACTION, POSITIVE_INT, Parser, path
from tables.run import Job, run_jobs, script_command, sort_jobs
from tables.write import format_accuracy, mean_and_std

MODES = ("finetune", "supervised")
COLUMNS = ["labels", "clips", "learning rate", "epoch", "fine-tuned", "supervised only", "fine-tuned better"]


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--pretrained", type=path, required=True, metavar="PATH", help="pretraining checkpoint"
    )
    parser.add_argument(
        "--representation", default="seq-based", help="encoder to fine-tune (default seq-based)"
    )
    parser.add_argument("--data-root", type=path, required=True, metavar="DIR", help="folder with the stores")
    parser.add_argument("--dataset", default="ntu60", metavar="NAME", help="(default ntu60)")
    parser.add_argument("--protocol", default="cross_subject", help="(default cross_subject)")
    parser.add_argument(
        "--fractions",
        type=POSITIVE_FRACTION,
        nargs="+",
        default=[0.1],
        metavar="F",
        help="fractions of the labels (default 0.1)",
    )
    parser.add_argument("--label-seeds", type=COUNT, nargs="+", default=[0, 1, 2, 3, 4], metavar="S")
    parser.add_argument("--lr", type=POSITIVE, nargs="+", default=[0.003, 0.01, 0.03])
    parser.add_argument("--batch-size", type=POSITIVE_INT, default=16, metavar="N")
    parser.add_argument("--runs", type=path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--jobs", type=POSITIVE_INT, default=1, metavar="N", help="parallel runs (default 1)")
    return parser.parse_args()


def training_job(
    args: argparse.Namespace, mode: str, fraction: float, lr: float, label_seed: int, sizes: Mapping[str, Any]
) -> Job:
    """One training with the paper's schedule of 50 epochs."""
    name = f"{mode}_{fraction}_lr{lr}_labels{label_seed}"
    command = script_command(
        "action_classification.py",
        {
            "mode": mode,
            "finetune_dataset": args.dataset,
            "protocol": args.protocol,
            "data_root": args.data_root,
            "finetune_skeleton_representation": args.representation,
            **({"pretrained": args.pretrained} if mode == "finetune" else sizes),
            "label_fraction": fraction,
            "label_seed": label_seed,
            "seed": label_seed,
            "lr": lr,
            "batch_size": args.batch_size,
            "resume": "auto",
            "output_dir": Path(args.runs, name),
        },
    )
    return Job(name, command, Path(args.runs, name, RESULTS))


def table_rows(fraction: float, lr: float, jobs: Mapping[str, list[Job]]) -> list[list[str]]:
    """The rows for the best and the last epoch at one learning rate."""
    results = {mode: [read_result(job.output) for job in jobs[mode]] for mode in MODES}
    clips = results["finetune"][0]["clips"]["train"]
    rows = []
    for epoch in ("best", "last"):
        finetuned, supervised = ([r["numbers"][epoch]["top1"] for r in results[mode]] for mode in MODES)
        better = sum(a > b for a, b in zip(finetuned, supervised, strict=True))
        accuracies = [format_accuracy(*mean_and_std(values)) for values in (finetuned, supervised)]
        rows.append([f"{100 * fraction:g}%", str(clips), f"{lr:g}", epoch, *accuracies])
        rows[-1].append(f"{better} of {len(finetuned)}")
    return rows


def main() -> None:
    args = parse_args()
    runs = Path(args.runs)
    check_output_folder(runs, "--runs")
    sizes = load_checkpoint(Path(args.pretrained))["sizes"]
    groups = {
        (fraction, lr): {
            mode: [training_job(args, mode, fraction, lr, seed, sizes) for seed in args.label_seeds]
            for mode in MODES
        }
        for fraction in args.fractions
        for lr in args.lr
    }
    jobs = [job for group in groups.values() for mode in MODES for job in group[mode]]
    logs = runs / "logs"
    run_jobs(sort_jobs(jobs, skip_done=True), [{}] * args.jobs, logs).check_complete(logs)
    rows = [row for (fraction, lr), group in groups.items() for row in table_rows(fraction, lr, group)]
    print("\n" + format_table([COLUMNS, *rows]))
    check_stdout()


if __name__ == "__main__":
    run_script(main)
