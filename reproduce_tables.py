"""Run the experiments of the paper's tables and print each result next to the paper's number.

    python reproduce_tables.py --list                     list the tables and the finished jobs
    python reproduce_tables.py --estimate                 time a few steps, print hours, disk and memory
    python reproduce_tables.py --tables T1 T6             run two tables: pretraining and evaluation
    python reproduce_tables.py --datasets ntu60           run the cells that need only NTU-60
    python reproduce_tables.py --checkpoints DIR          evaluate official or own checkpoints, no pretraining
    python reproduce_tables.py --dry-run > commands.sh    print every command, for a scheduler
    python reproduce_tables.py --scale smoke              run all on synthetic data, minutes on a CPU

Pretrainings that several tables share run once. Finished jobs (those with a results.json or a last
checkpoint) are skipped and interrupted ones resume, so the same command completes a stopped run. A
failed job blocks only its dependents. Pretrainings are in the folders that script_pretrain.sh and the
official commands use, below checkpoints/; checkpoints that lie there are used as they are. The tables are
written to RUNS/SCALE/tables.md and tables.csv, the output of each job to RUNS/SCALE/logs.
"""

import argparse
import os
import shlex
from pathlib import Path

from engine.signals import EXIT_RESUMABLE
from facts.datasets import DATASETS
from options.parser import COUNT, POSITIVE_INT, Parser, expanded_path
from tables.paper import TITLES, read_paper
from tables.plan import SEQ_GRAPH, PretrainingSpec, datasets_of
from tables.run import run_jobs, sort_jobs
from utils.errors import UserError, run_script
from utils.files import check_output_folder, exclusive_folder


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    tables = [*TITLES]
    add("--tables", nargs="+", choices=tables, default=tables, metavar="T", help="T1 to T10 (default: all)")
    datasets = [name for name in DATASETS if any(name in datasets_of(row) for row in read_paper())]
    datasets_help = "only cells that need no other dataset (default: all)"
    add("--datasets", nargs="+", choices=datasets, default=datasets, metavar="D", help=datasets_help)
    scale_help = "smoke: generated synthetic data, tiny encoders, a few epochs (default: paper)"
    add("--scale", choices=["paper", "smoke"], default="paper", help=scale_help)
    add("--data-root", type=expanded_path, metavar="DIR", help="folder with the stores (default: data)")
    add("--runs", type=expanded_path, default="runs", metavar="DIR", help="output folder (default: runs)")
    checkpoints_help = "linear probes and retrieval of the checkpoints in this folder, own or official ones, "
    checkpoints_help += "without pretraining (default: pretrain into checkpoints)"
    add("--checkpoints", type=expanded_path, metavar="DIR", help=checkpoints_help)
    seeds_help = "several: mean and standard deviation (default: 0)"
    add("--seeds", type=COUNT, nargs="+", default=[0], metavar="S", help=seeds_help)
    slots = parser.add_mutually_exclusive_group()
    gpus_help = "values of CUDA_VISIBLE_DEVICES for parallel jobs: '--gpus 0 1' runs two jobs, one on each "
    gpus_help += "GPU; '--gpus 0,1' one job on both (default: one job on all visible GPUs)"
    slots.add_argument("--gpus", nargs="+", metavar="N", help=gpus_help)
    slots.add_argument("--jobs", type=POSITIVE_INT, default=1, metavar="N", help="parallel jobs (default: 1)")
    add("--flags", type=shlex.split, default=[], help="appended to every command: --flags='--amp bf16'")
    add("--dry-run", action="store_true", help="print the remaining commands without running them")
    add("--list", action="store_true", help="list the tables and the number of finished jobs, run nothing")
    add("--estimate", action="store_true", help="time a few steps; print hours, disk space and GPU memory")
    args = parser.parse_args()
    if args.scale == "smoke" and (args.data_root or args.estimate):
        parser.error("--scale smoke generates its data in minutes: omit --data-root and --estimate")
    return args


def main() -> int:
    args = parse_args()
    # Imported late: PyTorch takes seconds.
    from tables.estimate import print_estimate
    from tables.jobs import JobBuilder
    from tables.settings import SCALES
    from tables.write import print_failures, print_list, read_cell, table_text, write_tables

    scale, folder = SCALES[args.scale], Path(args.runs, args.scale)
    root = folder if scale.synthetic else Path()
    data_root, checkpoints = Path(args.data_root or root / "data"), root / "checkpoints"
    builder = JobBuilder(scale, data_root, Path(args.checkpoints or checkpoints), folder, tuple(args.flags))
    rows = [row for row in read_paper() if row.table in args.tables and datasets_of(row) <= {*args.datasets}]
    if args.checkpoints:
        rows = [row for row in rows if builder.is_available(row, args.seeds)]
        if not any(row.is_runnable for row in rows):
            example = builder.pretraining(PretrainingSpec(SEQ_GRAPH, "ntu60", "cross_view")).output
            raise UserError(f"--checkpoints: nothing to evaluate; a checkpoint would be {example}")
    slots = [{"CUDA_VISIBLE_DEVICES": names} for names in args.gpus or []] or [{}] * args.jobs
    remaining = sort_jobs(builder.evaluations(rows, args.seeds), skip_done=True)
    if args.list or args.estimate or args.dry_run:
        if args.list:
            print_list(rows, builder, args.seeds)
        elif args.estimate:
            print_estimate(rows, builder, args.seeds, slots)
        else:
            print("".join(f"# {job.name}\n{job.command_line}\n" for job in remaining), end="")
        return 0
    check_output_folder(folder, "--runs")
    if scale.synthetic:  # more threads do not speed up encoders this small
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    with exclusive_folder(folder, "--runs"):
        print(f"{len(remaining)} jobs, {len(slots)} at a time, in {folder}", flush=True)
        summary = run_jobs(remaining, slots, folder / "logs")
        cells = [read_cell(row, builder, args.seeds) for row in read_paper()]
        try:
            tables = write_tables(cells, builder)
        finally:  # also if the disk is full
            print("\n" + "\n".join(table_text(table, cells) for table in args.tables), flush=True)
    filled = sum(bool(cell.best) for cell in cells)
    print(f"written: {tables} and {tables.with_suffix('.csv').name}, {filled} cells filled")
    print_failures(rows, builder, args.seeds, summary)
    if summary.stopped:
        print("stopped; run the same command again to continue")
        return EXIT_RESUMABLE
    return 1 if summary.failed else 0


if __name__ == "__main__":
    run_script(main)
