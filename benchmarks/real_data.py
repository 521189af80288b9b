"""Pretrain and evaluate all representations on a small real dataset, at small sizes, on a CPU.

    python benchmarks/real_data.py --raw FOLDER [--epochs 60] [--seed 0] [--runs FOLDER]

``FOLDER`` contains .skeleton files in NTU's format, for example converted from UTD-MHAD or
MSR-Action3D. The table compares untrained encoders, intra-skeleton pretraining of each representation
and inter-skeleton pretraining of each combination, by retrieval and linear probe on cross_subject with
the settings of the demo. It is printed and written as Markdown. Finished runs are skipped: choose
another --runs for other raw files or to start over.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads do not speed up encoders this small

from dataset.store_format import INFO_FILE
from engine.checkpoint import checkpoint_name
from engine.report import RESULTS, format_table, read_result
from models.representations import REPRESENTATIONS, join_representations
from options.errors import run_script
from options.files import atomic_write, check_output_folder
from options.flags import COUNT, POSITIVE_INT, Parser, path
from tables.run import Job, run_jobs, script_command, sort_jobs

SIZES = {
    "num_frames": 16,
    "gru_hidden_size": 64,
    "gru_num_layers": 2,
    "graph_width": 8,
    "graph_num_blocks": 2,
    "image_width": 16,
}
PRETRAINING = {
    "augmentations": ("crop", "pose"),
    "min_crop_ratio": 0.5,
    "min_crop_frames": 24,
    "moco_k": 256,
    "moco_m": 0.99,
    "moco_t": 0.2,
    "batch_size": 16,
    "lr": 0.05,
    "cos": True,
    "no_mlp": True,  # with these few steps an MLP head learns worse features
}
PROBE = {"epochs": 40, "schedule": (25, 35)}
COLUMNS = ["pretraining", "encoder", "retrieval", "linear best", "linear last"]


@dataclass(frozen=True)
class Row:
    """One row of the table: the evaluations of one encoder."""

    pretraining: str
    encoder: str
    retrieval: Job
    linear: Job

    def cells(self) -> list[str]:
        """The row as text; both evaluations must be finished."""
        knn = read_result(self.retrieval.output)["numbers"]["knn"]
        linear = read_result(self.linear.output)["numbers"]
        accuracies = (knn, linear["best"]["top1"], linear["last"]["top1"])
        return [self.pretraining, self.encoder, *(f"{accuracy:.1f}" for accuracy in accuracies)]


class Experiment:
    """Builds the jobs of the table.

    Args:
        raw: folder with the skeleton files.
        runs: folder for the store, checkpoints and results.
        seed: seed of all runs.
        epochs: epochs of every pretraining.
    """

    def __init__(self, raw: Path, runs: Path, seed: int, epochs: int) -> None:
        self.runs, self.epochs = runs, epochs
        self.data = {"data_root": runs / "data", "protocol": "cross_subject", "seed": seed}
        store = runs / "data" / "ntu60"
        prepare = script_command("data_gen/ntu_gendata.py", {"data_path": raw, "out_folder": store})
        self.store = Job("store", prepare, store / INFO_FILE)

    def pretraining(self, contrast: str, names: str) -> Job:
        """A pretraining; its output is the last checkpoint."""
        folder = self.runs / f"{contrast}_{names}"
        flags = {
            "pre_dataset": "ntu60",
            **self.data,
            "skeleton_representation": names,
            "checkpoint_path": folder,
            "epochs": self.epochs,
            **PRETRAINING,
            **SIZES,
            "resume": "auto",
        }
        command = script_command(f"main_moco_{contrast}_skeleton.py", flags)
        checkpoint = folder / checkpoint_name(self.epochs - 1)
        return Job(f"pretraining {folder.name}", command, checkpoint, (self.store,))

    def row(
        self, title: str, representation: str, pretrained: Job | str, sizes: Mapping[str, Any] | None = None
    ) -> Row:
        """Retrieval and linear probe of one encoder.

        Args:
            title: first cell of the row.
            representation: encoder to evaluate.
            pretrained: its pretraining, ``random`` or ``coordinates``.
            sizes: encoder sizes, if not from a checkpoint.
        """
        if isinstance(pretrained, Job):
            encoder, folder, dependency = str(pretrained.output), pretrained.output.parent, pretrained
        else:
            encoder, folder, dependency = pretrained, self.runs / pretrained, self.store
        flags = {
            "pretrained": encoder,
            "finetune_skeleton_representation": representation,
            **self.data,
            **(sizes or {}),
        }
        jobs = []
        for script, task, extra in (
            ("action_retrieval.py", "retrieval", {}),
            ("action_classification.py", "linear", PROBE),
        ):
            output = folder / f"{task}_{representation}"
            command = script_command(script, {**flags, **extra, "output_dir": output})
            jobs.append(
                Job(f"{task} {folder.name} {representation}", command, output / RESULTS, (dependency,))
            )
        return Row(title, "coordinates" if encoder == "coordinates" else representation, *jobs)

    def rows(self) -> Iterator[Row]:
        """All rows of the table."""
        yield self.row("none", "seq-based", "coordinates")
        for name in REPRESENTATIONS:
            yield self.row("untrained", name, "random", SIZES)
        for count in range(1, len(REPRESENTATIONS) + 1):
            contrast = "intra" if count == 1 else "inter"
            for members in combinations(REPRESENTATIONS, count):
                names = join_representations(members)
                pretraining = self.pretraining(contrast, names)
                for name in members:
                    yield self.row(f"{contrast} {names}", name, pretraining)


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--raw", type=path, required=True, metavar="DIR", help="folder with skeleton files")
    parser.add_argument("--epochs", type=POSITIVE_INT, default=60, metavar="N", help="(default 60)")
    parser.add_argument("--seed", type=COUNT, default=0, help="(default 0)")
    parser.add_argument(
        "--runs", type=path, metavar="DIR", help="output folder (default runs/real_data_seedS_Eepochs)"
    )
    parser.add_argument("--jobs", type=POSITIVE_INT, default=1, metavar="N", help="parallel runs (default 1)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    name = f"real_data_seed{args.seed}_{args.epochs}epochs"
    runs = Path(args.runs or REPOSITORY / "runs" / name).resolve()
    check_output_folder(runs, "--runs")
    rows = list(Experiment(Path(args.raw).resolve(), runs, args.seed, args.epochs).rows())
    jobs = sort_jobs((job for row in rows for job in (row.retrieval, row.linear)), skip_done=True)
    logs = runs / "logs"
    run_jobs(jobs, [{}] * args.jobs, logs).check_complete(logs)
    table = format_table([COLUMNS, *(row.cells() for row in rows)])
    try:
        atomic_write(runs / "table.md", lambda file: file.write(f"{table}\n".encode()))
    finally:  # also if the disk is full
        print(f"\n{table}", flush=True)


if __name__ == "__main__":
    run_script(main)
