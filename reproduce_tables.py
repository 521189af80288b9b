"""Run the paper's tables and print each number beside the paper's.

    python reproduce_tables.py --list                     the tables, and what is done
    python reproduce_tables.py --tables T1 T6             pretrain and evaluate what they need
    python reproduce_tables.py --dry-run > commands.sh    every command, for a scheduler
    python reproduce_tables.py --scale smoke              all ten on synthetic data, in minutes, on a CPU

Tables share pretrainings, and each is run once. What is done, by its results.json or its last
checkpoint, is not run again, and what was interrupted goes on, so that the same command line
finishes a run that was stopped. A job that fails stops only those that need it. The tables are
RUNS/SCALE/tables.md and tables.csv; the output of each job is in RUNS/SCALE/logs.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import Sequence

from options.files import exclusive_folder
from engine.signals import EXIT_RESUMABLE
from options.errors import run_script
from options.flags import COUNT, POSITIVE_INT, Parser
from tables.data import claim_folder
from tables.job import Job, in_order
from tables.jobs import Place
from tables.paper import TITLES, PaperRow, read_paper
from tables.plan import evaluations_of
from tables.run import Outcome, run_jobs
from tables.scale import SCALES
from tables.write import fill, table_text, write_tables


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--tables", nargs="+", choices=[*TITLES], default=[*TITLES], metavar="T",
                        help="T1 to T10 (default: all)")
    parser.add_argument("--scale", choices=[*SCALES], default="paper",
                        help="paper: its data sets, sizes and epochs; smoke: synthetic data, tiny sizes, "
                        "a few epochs (default paper)")
    parser.add_argument("--data-root", type=Path, metavar="DIR",
                        help="folder that holds the stores (default: data; at smoke scale a folder of "
                        "synthetic data below --runs, which is made where it is missing)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR",
                        help="folder for checkpoints, results, logs and tables (default runs)")
    parser.add_argument("--seeds", type=COUNT, nargs="+", default=[0], metavar="S",
                        help="pretrain and evaluate once with each: mean and standard deviation (default 0)")
    slots = parser.add_mutually_exclusive_group()
    slots.add_argument("--gpus", nargs="+", metavar="N",
                       help="GPUs, as for CUDA_VISIBLE_DEVICES: '--gpus 0 1' runs two jobs at a time, one "
                       "on each; '--gpus 0,1' one job on both (default: one job, all visible GPUs)")
    slots.add_argument("--jobs", type=POSITIVE_INT, default=1, metavar="N",
                       help="jobs at a time, without a GPU each (default 1)")
    parser.add_argument("--flags", default="", metavar="FLAGS",
                        help="flags of any run that every pretraining and evaluation is given besides, with "
                        "an equals sign: --flags='--amp bf16'")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are left, run none")
    parser.add_argument("--list", action="store_true", help="print the tables and what is done, run nothing")
    return parser.parse_args()


def jobs_of(rows: Sequence[PaperRow], place: Place, seeds: Sequence[int]) -> list[Job]:
    """The evaluations that the rows ask for, each once."""
    asked = [e for row in rows for e in evaluations_of(row, seeds, place.scale.label_seeds)]
    return [place.evaluation(e) for e in dict.fromkeys(asked)]


def progress(jobs: Sequence[Job]) -> str:
    every, left = in_order(jobs), in_order(jobs, only_left=True)
    return f"{len(every) - len(left)} of {len(every)} jobs done"


def print_list(rows: Sequence[PaperRow], place: Place, seeds: Sequence[int]) -> None:
    for table in dict.fromkeys(row.table for row in rows):
        own = [row for row in rows if row.table == table]
        ours = sum(row.is_ours for row in own)
        print(f"{table:4s}{TITLES[table]}: {ours} cells of ours, {len(own) - ours} of other methods, "
              f"{progress(jobs_of(own, place, seeds))}")
    print(f"together, each once: {progress(jobs_of(rows, place, seeds))}")


def print_failures(rows: Sequence[PaperRow], place: Place, seeds: Sequence[int], outcome: Outcome) -> None:
    """Every job that failed, and every cell that is not filled because of it."""
    for name, reason in outcome.failed.items():
        print(f"failed: {name}: {reason}")
    for row in rows:
        if any(job.name in outcome.failed for job in jobs_of([row], place, seeds)):
            print(f"not filled: {row.table}, {row.method}, {row.column}")


def main() -> int:
    args = parse_args()
    scale, folder = SCALES[args.scale], args.runs / args.scale
    data_root = args.data_root or (folder / "data" if scale.synthetic else Path("data"))
    place = Place(scale, data_root, folder, tuple(shlex.split(args.flags)))
    rows = [row for row in read_paper() if row.table in args.tables]
    if args.list:
        print_list(rows, place, args.seeds)
        return 0
    left = in_order(jobs_of(rows, place, args.seeds), only_left=True)
    if args.dry_run:
        for job in left:
            print(f"# {job.name}\n{job.text}")
        return 0
    slots = [{"CUDA_VISIBLE_DEVICES": names} for names in args.gpus or []] or [{}] * args.jobs
    if scale.synthetic:  # layers this small gain nothing from a second thread
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    with exclusive_folder(folder, "--runs"):
        if any(job in left for job in place.all_data()):
            claim_folder(data_root)
        print(f"{len(left)} jobs, {len(slots)} at a time, into {folder}", flush=True)
        outcome = run_jobs(left, slots, folder / "logs")
        cells = [fill(row, place, args.seeds) for row in read_paper()]
        path = write_tables(cells, place)
    print("\n" + "\n".join(table_text(table, cells) for table in args.tables))
    filled = [cell for cell in cells if cell.best]
    print(f"written: {path} and {path.with_suffix('.csv').name}, {len(filled)} cells of ours filled")
    print_failures(rows, place, args.seeds, outcome)
    if outcome.stopped:
        print("stopped; the same command line goes on from here")
        return EXIT_RESUMABLE
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    run_script(main)
