"""Study of the preset for small datasets: one factor at a time around it, on a small real dataset.

    python benchmarks/small_data_study.py --raw FOLDER [--seeds 0 1 2] [--steps N] \\
        [--only momentum temperature pairs ...] [--jobs 2] [--runs FOLDER]

``STUDY`` lists the factors. Each row changes the flags of the preset that it names; rows that change none of
its values share one run. The table is printed and written as Markdown: 1-NN retrieval and linear probe
(best and last epoch) on cross_subject of every encoder of the pretraining, mean and sample standard deviation
over the seeds. Finished runs are skipped; a run with ``benchmarks/real_data.py`` of the same folder and
steps is shared.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.small_runs import (
    Contrast,
    Encoder,
    add_run_flags,
    open_runs,
    parse_preset,
    run_all,
)
from engine.report import format_table
from models.agcn import GRAPH
from models.gru import SEQUENCE
from models.hcn import IMAGE
from options.parser import POSITIVE_INT, Parser
from utils.errors import run_script
from utils.files import atomic_write

SEQ, BOTH = (SEQUENCE.name,), (SEQUENCE.name, GRAPH.name)
# Factor -> rows of (pairs, representations, flags that replace those of the preset).
STUDY: dict[str, list[tuple[str, tuple[str, ...], str]]] = {
    "momentum": [("intra", SEQ, f"--moco-m {m}") for m in (0.99, 0.996, 0.999)],
    "temperature": [("intra", SEQ, f"--moco-t {t}") for t in (0.07, 0.1, 0.2, 0.4)],
    "paper's momentum and temperature": [("intra", SEQ, "--moco-m 0.999 --moco-t 0.07")],
    "learning rate": [("intra", SEQ, f"--lr {lr}") for lr in (0.03, 0.1, 0.3)],
    "negatives": [("intra", SEQ, f"--moco-k {k}") for k in (0, 256)],
    "batch size": [("intra", SEQ, f"--batch-size {n}") for n in (16, 32, 64)],
    "crop ratio": [("intra", SEQ, f"--min-crop-ratio {r}") for r in (0.1, 0.3, 0.5, 0.7)],
    "augmentations": [
        ("intra", SEQ, f"--augmentations {names}") for names in ("crop", "crop pose", "crop pose jitter")
    ],
    "jitter": [
        ("intra", SEQ, f"--jitter-joints {n} --jitter-zero-prob {p}")
        for n, p in ((4, 0.2), (8, 0.2), (12, 0.2), (8, 0.5), (15, 0.5))
    ],
    "head": [("intra", SEQ, flag) for flag in ("--no-mlp", "--mlp")],
    "hidden units": [("intra", SEQ, f"--gru-hidden-size {n}") for n in (64, 128)],
    "pairs": [
        ("intra", SEQ, ""),
        ("intra", (GRAPH.name,), ""),
        ("inter", BOTH, ""),
        ("all", BOTH, ""),
    ],
    "pairs, queue": [("inter", BOTH, "--moco-k 256"), ("all", BOTH, "--moco-k 256")],
    "image encoder": [
        ("intra", (IMAGE.name,), f"--lr {lr} --image-dropout {p}")
        for lr, p in ((0.003, 0.1), (0.01, 0.1), (0.03, 0.1), (0.1, 0.1), (0.01, 0.5))
    ],
}
COLUMNS = ["factor", "pretraining", "flags", "encoder", "1-NN", "linear best", "linear last"]


def study_contrast(pairs: str, representations: tuple[str, ...], given: str, steps: int) -> Contrast:
    """Return a row of the study; flags with the preset's values are left out."""
    contrast = Contrast(pairs, representations, steps, tuple(shlex.split(given)))
    plain = Contrast(pairs, representations, steps)
    return plain if parse_preset(contrast.all_flags) == parse_preset(plain.all_flags) else contrast


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--steps", type=POSITIVE_INT, metavar="N", help="of every pretraining (default: the preset's)"
    )
    parser.add_argument("--only", nargs="+", choices=STUDY, default=[*STUDY], help="factors (default: all)")
    add_run_flags(parser, "study")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runs, steps = open_runs(args, "study"), args.steps or parse_preset().steps
    folder = runs.folder
    rows = []  # labels and encoder
    for factor in args.only:
        for pairs, representations, given in STUDY[factor]:
            contrast = study_contrast(pairs, representations, given, steps)
            rows += [
                ([factor, contrast.title, given or "the preset", name], Encoder(name, (contrast,)))
                for name in representations
            ]
    summary = run_all(runs.evaluations([encoder for _, encoder in rows], args.seeds), args.jobs, folder)
    measured = [[*labels, *runs.accuracies(encoder, args.seeds)] for labels, encoder in rows]
    table = format_table([COLUMNS, *(row for row in measured if any(row[len(row) - 3 :]))])
    atomic_write(folder / "study.md", lambda file: file.write(f"{table}\n".encode()))
    print(f"\n{table}", flush=True)
    summary.check_complete(folder / "logs")


if __name__ == "__main__":
    run_script(main)
