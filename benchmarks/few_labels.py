"""Few labels: fine-tuning a pretrained encoder compared with supervised training.

    python benchmarks/few_labels.py --pretrained runs/seed0 runs/seed1 \\
        --data-root runs/demo/data --runs runs/few_labels_demo --title Demo
    python benchmarks/few_labels.py --plot runs/few_labels_demo runs/few_labels_utd --runs runs/few_labels

Both use the same clips and number of epochs. Every fraction of the labels has several label subsets; subset
i starts from checkpoint i modulo their number. Each method has, per fraction, the learning rate of --lr with
the highest mean accuracy over all subsets, of the last epoch on the validation clips.

``table.md``: mean and sample standard deviation of the top-1 accuracy on the validation clips, of the best
epoch and in parentheses of the last one, and the number of label subsets on which fine-tuning is better in
the last epoch. ``few_labels.svg``: the last epoch. --plot writes a figure with a panel per folder. Finished
runs are skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.small_runs import run_all
from engine.checkpoint import load_checkpoint
from engine.encoders import last_checkpoints
from engine.report import RESULTS, format_table, read_result
from options.parser import COUNT, POSITIVE, POSITIVE_FRACTION, POSITIVE_INT, Parser, expanded_path
from tables.run import Job, script_command
from tables.write import format_accuracy, mean_and_std
from utils.errors import UserError, run_script
from utils.files import atomic_write, check_output_folder, write_json
from visual import require_library
from visual.plots import figure_svg, new_figure, style_axes, without_math

MODES = {"finetune": "fine-tuned", "supervised": "supervised only"}
COLUMNS = ["labels", "clips", *MODES.values(), "learning rates", "fine-tuned better"]
COLORS = {"finetune": "#1b6ca8", "supervised": "#d95f02"}
SUMMARY, FIGURE = "few_labels.json", "few_labels.svg"


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--pretrained",
        type=expanded_path,
        nargs="+",
        metavar="PATH",
        help="pretrainings, one per seed: checkpoints or folders",
    )
    parser.add_argument(
        "--representation", default="seq-based", help="encoder to fine-tune (default: seq-based)"
    )
    parser.add_argument("--data-root", type=expanded_path, metavar="DIR", help="folder with the stores")
    parser.add_argument("--dataset", default="ntu60", metavar="NAME", help="(default: ntu60)")
    parser.add_argument("--protocol", default="cross_subject", help="(default: cross_subject)")
    parser.add_argument(
        "--fractions",
        type=POSITIVE_FRACTION,
        nargs="+",
        default=[0.01, 0.05, 0.1, 1.0],
        metavar="F",
        help="fractions of the labels (default: 0.01 0.05 0.1 1)",
    )
    parser.add_argument("--label-seeds", type=COUNT, nargs="+", default=[0, 1, 2, 3, 4], metavar="S")
    parser.add_argument("--label-sampling", choices=["balanced", "uniform"], default="balanced")
    parser.add_argument("--lr", type=POSITIVE, nargs="+", default=[0.003, 0.01])
    parser.add_argument("--epochs", type=POSITIVE_INT, default=50, metavar="N", help="(default: 50)")
    parser.add_argument("--batch-size", type=POSITIVE_INT, default=16, metavar="N")
    parser.add_argument(
        "--runs", type=expanded_path, required=True, metavar="DIR", help="folder for the results"
    )
    parser.add_argument("--title", help="of the panel (default: the name of the folder)")
    parser.add_argument(
        "--plot",
        type=expanded_path,
        nargs="+",
        metavar="DIR",
        help="only plot the results in these folders together",
    )
    parser.add_argument(
        "--jobs", type=POSITIVE_INT, default=1, metavar="N", help="parallel runs (default: 1)"
    )
    args = parser.parse_args()
    if not args.plot and not (args.pretrained and args.data_root):
        parser.error("--pretrained and --data-root are required without --plot")
    args.pretrained = last_checkpoints(args.pretrained or [])
    return args


def training_job(
    args: argparse.Namespace, mode: str, fraction: float, lr: float, subset: int, sizes: Mapping[str, Any]
) -> Job:
    """Return the job of one training; the learning rate is divided by 10 at 60% and 80% of the epochs."""
    label_seed, checkpoint = args.label_seeds[subset], args.pretrained[subset % len(args.pretrained)]
    name = f"{mode}_{fraction}_lr{lr}_labels{label_seed}"
    command = script_command(
        "action_classification.py",
        {
            "mode": mode,
            "finetune_dataset": args.dataset,
            "protocol": args.protocol,
            "data_root": args.data_root,
            "finetune_skeleton_representation": args.representation,
            **({"pretrained": checkpoint} if mode == "finetune" else sizes),
            "label_fraction": fraction,
            "label_sampling": args.label_sampling,
            "label_seed": label_seed,
            "seed": label_seed,
            "lr": lr,
            "epochs": args.epochs,
            "schedule": (round(0.6 * args.epochs), round(0.8 * args.epochs)),  # as in the paper
            "batch_size": args.batch_size,
            "resume": "auto",
            "output_dir": Path(args.runs, name),
        },
    )
    return Job(name, command, Path(args.runs, name, RESULTS))


def best_results(jobs: Mapping[float, Sequence[Job]]) -> dict[str, Any]:
    """Return the results at the learning rate with the best mean: best and last epoch of every subset."""
    results = {lr: [read_result(job.output) for job in subsets] for lr, subsets in jobs.items()}

    def top1(lr: float, epoch: str) -> list[float]:
        return [result["numbers"][epoch]["top1"] for result in results[lr]]

    lr = max(results, key=lambda lr: fmean(top1(lr, "last")))
    clips = results[lr][0]["clips"]["train"]
    return {"lr": lr, "clips": clips, "best": top1(lr, "best"), "last": top1(lr, "last")}


def table_row(fraction: float, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the table row of one fraction of the labels."""
    cells = []
    for mode in MODES:
        best, last = (format_accuracy(*mean_and_std(results[mode][epoch])) for epoch in ("best", "last"))
        cells.append(f"{best} ({last})")
    finetuned, supervised = (results[mode] for mode in MODES)
    better = sum(a > b for a, b in zip(finetuned["last"], supervised["last"], strict=True))
    rates = f"{finetuned['lr']:g}, {supervised['lr']:g}"
    count = len(finetuned["last"])
    return [f"{100 * fraction:g}%", str(finetuned["clips"]), *cells, rates, f"{better} of {count}"]


def plot(summaries: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot accuracy over the fraction of the labels as SVG, a panel per dataset."""
    from matplotlib.ticker import NullLocator

    figure = new_figure(4.2 * len(summaries), 3.4)
    for axes, summary in zip(figure.subplots(1, len(summaries), squeeze=False)[0], summaries):
        fractions = [100 * row["fraction"] for row in summary["rows"]]
        for mode, label in MODES.items():
            means, deviations = zip(*(mean_and_std(row[mode]["last"]) for row in summary["rows"]))
            errors = [deviation or 0.0 for deviation in deviations]
            axes.errorbar(fractions, means, errors, marker="o", capsize=3, color=COLORS[mode], label=label)
        axes.set(title=without_math(summary["title"]), xlabel="labels (%)", xscale="log", ylim=(0, 100))
        axes.set_xticks(fractions, [f"{fraction:g}" for fraction in fractions])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("top-1 accuracy (%)")
        style_axes(axes)
        axes.legend(loc="lower right", frameon=False)
    return figure_svg(figure)


def train_all(args: argparse.Namespace, runs: Path) -> None:
    """Run all trainings; write and print the table and write its numbers for the figure."""
    sizes = load_checkpoint(Path(args.pretrained[0]))["sizes"]
    subsets = range(len(args.label_seeds))
    groups = {
        (fraction, mode): {
            lr: [training_job(args, mode, fraction, lr, subset, sizes) for subset in subsets]
            for lr in args.lr
        }
        for fraction, mode in product(args.fractions, MODES)
    }
    jobs = [job for group in groups.values() for some in group.values() for job in some]
    run_all(jobs, args.jobs, runs).check_complete(runs / "logs")
    rows = [
        {"fraction": fraction, **{mode: best_results(groups[fraction, mode]) for mode in MODES}}
        for fraction in args.fractions
    ]
    write_json(runs / SUMMARY, {"title": args.title or runs.name, "rows": rows})
    table = format_table([COLUMNS, *(table_row(row["fraction"], row) for row in rows)])
    atomic_write(runs / "table.md", lambda file: file.write(f"{table}\n".encode()))
    print("\n" + table)


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the numbers of the figure; raises ``UserError`` if they are missing."""
    try:
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / SUMMARY} cannot be read ({error}); run few_labels.py there") from error


def main() -> None:
    args = parse_args()
    require_library("few_labels.svg", "Matplotlib")
    runs = Path(args.runs).resolve()
    check_output_folder(runs, "--runs")
    if not args.plot:
        train_all(args, runs)
    svg = plot([read_summary(Path(folder)) for folder in args.plot or [runs]])
    atomic_write(runs / FIGURE, lambda file: file.write(svg))
    print(f"written: {runs / FIGURE}", flush=True)


if __name__ == "__main__":
    run_script(main)
