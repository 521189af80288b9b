"""Does a pretrained encoder need fewer labels? Fine-tuning beside supervised training from random weights.

    python benchmarks/few_labels.py --pretrained runs/demo/pretrained/checkpoint_0059.pth.tar \\
        --data-root runs/demo/data --runs runs/few_labels_demo

Both see the same clips, as many epochs and the same learning rates; of several learning rates the
table shows all. Each is run for several draws of the labels: mean and standard deviation (of a
sample) of the top-1 accuracy on the val clips, and in how many draws fine-tuning is ahead. What was
run before is not run again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small layers gain nothing from more

from engine.checkpoint import load_checkpoint
from engine.report import RESULTS, format_table, read_result
from options.errors import UserError, run_script
from tables.job import Job, command, in_order
from tables.run import run_jobs

MODES = ("finetune", "supervised")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", type=Path, required=True, help="a checkpoint of this program")
    parser.add_argument("--representation", default="seq-based", help="its encoder to fine-tune")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--dataset", default="ntu60")
    parser.add_argument("--protocol", default="cross_subject")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1], help="of the labels")
    parser.add_argument("--label-seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--lr", type=float, nargs="+", default=[0.003, 0.01, 0.03])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--runs", type=Path, required=True, help="folder for results")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    return parser.parse_args()


def training(args: argparse.Namespace, sizes: dict, mode: str, fraction: float, lr: float, seed: int) -> Job:
    """One training of 50 epochs, as the paper's schedule has it."""
    name = f"{mode}_{fraction}_lr{lr}_labels{seed}"
    encoder = {"pretrained": args.pretrained} if mode == "finetune" else sizes
    line = command("action_classification.py", {
        "mode": mode, "finetune_dataset": args.dataset, "protocol": args.protocol, "data_root": args.data_root,
        "finetune_skeleton_representation": args.representation, **encoder, "label_fraction": fraction,
        "label_seed": seed, "seed": seed, "lr": lr, "batch_size": args.batch_size, "resume": "auto",
        "output_dir": args.runs / name,
    })
    return Job(name, line, args.runs / name / RESULTS)


def main() -> int:
    args = parse_args()
    sizes = load_checkpoint(args.pretrained)["sizes"]
    jobs = {
        (fraction, lr, mode): [training(args, sizes, mode, fraction, lr, seed) for seed in args.label_seeds]
        for fraction in args.fractions for lr in args.lr for mode in MODES
    }
    left = in_order([job for group in jobs.values() for job in group], only_left=True)
    outcome = run_jobs(left, [{}] * args.jobs, args.runs / "logs")
    if outcome.stopped or outcome.failed:
        raise UserError(f"not all trainings ended; look into {args.runs / 'logs'}, and start this again")
    rows = [["labels", "clips", "learning rate", "epoch", "fine-tuned", "supervised only", "ahead in"]]
    for fraction in args.fractions:
        for lr in args.lr:
            results = {mode: [read_result(job.result) for job in jobs[fraction, lr, mode]] for mode in MODES}
            for when in ("best", "last"):
                values = {mode: [r["numbers"][when]["top1"] for r in results[mode]] for mode in MODES}
                shown = [f"{statistics.fmean(x):.1f} ± {statistics.stdev(x):.1f}" for x in values.values()]
                ahead = sum(a > b for a, b in zip(*values.values()))
                clips = results["finetune"][0]["clips"]["train"]
                rows.append([f"{100 * fraction:g}%", str(clips), f"{lr:g}", when, *shown,
                             f"{ahead} of {len(args.label_seeds)}"])
    print("\n" + format_table(rows))
    return 0


if __name__ == "__main__":
    run_script(main)
