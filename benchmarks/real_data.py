"""Pretrain and evaluate small encoders on a real dataset, with the preset for small datasets.

    python benchmarks/real_data.py table --data-root DIR --runs DIR [--only preset intra inter all streams]
    python benchmarks/real_data.py study --data-root DIR --runs DIR [--only momentum temperature ...]
    python benchmarks/real_data.py labels --data-root DIR --runs DIR --pretrained RUN0 RUN1 RUN2
    python benchmarks/real_data.py labels --plot DIR DIR --runs DIR
    python benchmarks/real_data.py transfer --data-root DIR --runs DIR --pretrained RUN0 RUN1 RUN2

The store is --dataset in --data-root. Each command prints its results and writes them to --runs: mean and
sample standard deviation over the seeds, of 1-NN retrieval and of the best and the last epoch of the linear
probe. results.csv has the values of each run; results.py puts them into docs/results.md. Finished runs are
skipped: choose another folder for another store or preset. All results, as LaTeX or CSV:
python -m engine.report RUNS --over seed --format latex.

- table: coordinates, untrained encoders, the preset unchanged (intra-skeleton, sequence encoder), and with
  --steps each: intra-skeleton pretraining of each representation, inter-skeleton pretraining (pairs inter and
  all) of every two, and the sequence encoder on joints, bones and motion. Features of several encoders are
  concatenated. "minutes" is the longest pretraining of a seed on one core.
- study: STUDY lists the flags of the preset that are changed, one factor at a time. Rows that change none of
  its values share one run, also with the table in the same folder.
- labels: fine-tuning compared with supervised training with few labels. Label subset i starts from checkpoint
  i modulo their number. Best epoch on the validation clips and, in parentheses, last epoch. few_labels.svg
  shows the last epoch; with --plot, a panel for each of several folders.
- transfer: evaluations of frozen encoders that were pretrained on another dataset, one per seed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads do not speed up encoders this small

from benchmarks.results import COLUMNS, RUN_RESULTS, Row, merge, read_results, summarize, write_results
from dataset.clips import open_clips
from engine.checkpoint import checkpoint_name, load_checkpoint
from engine.encoders import COORDINATES, RANDOM, last_checkpoints
from engine.log import LOG_FILE, read_log
from engine.report import RESULTS, format_accuracy, format_table, mean_and_std, read_result
from models.registry import REPRESENTATIONS, join_representations, size_flags, with_stream
from models.streams import STREAMS
from options.parser import COUNT, POSITIVE, POSITIVE_FRACTION, POSITIVE_INT, Parser, expanded_path
from tables.run import Job, run_jobs, script_command, sort_jobs
from utils.errors import parse_errors, run_script
from utils.files import atomic_write, check_output_folder, write_json
from visual.plots import figure_svg, new_figure, style_axes

PRESET = REPOSITORY / "presets" / "small_dataset.txt"
SEQ, GRAPH, IMAGE = "seq-based", "graph-based", "image-based"
ENCODER_FLAGS = {IMAGE: ("--lr", "0.03")}  # added to every pretraining that contains the encoder
PROBE = {"epochs": 40, "schedule": (25, 35), "cached_crops": 8}

PARTS = ("reference", "preset", "intra", "inter", "all", "streams")
PAIRS = (*combinations(REPRESENTATIONS, 2),)

# Factor -> pairs, the representations that are contrasted, and flags that replace those of the preset.
JITTER = ((4, 0.2), (8, 0.2), (12, 0.2), (8, 0.5), (15, 0.5))
IMAGE_RATES = ((0.003, 0.1), (0.01, 0.1), (0.03, 0.1), (0.1, 0.1), (0.01, 0.5))
INPUT_NORM, DISTILL = "--gru-input-norm batch", "--distill inter --distill-start 200"
JOINT_STREAMS = tuple(with_stream(SEQ, stream) for stream in STREAMS)
STUDY: dict[str, tuple[str, tuple[str, ...], list[str]]] = {
    "momentum": ("intra", (SEQ,), [f"--moco-m {m}" for m in (0.99, 0.996, 0.999)]),
    "temperature": ("intra", (SEQ,), [f"--moco-t {t}" for t in (0.07, 0.1, 0.2, 0.4)]),
    "paper's momentum and temperature": ("intra", (SEQ,), ["--moco-m 0.999 --moco-t 0.07"]),
    "learning rate": ("intra", (SEQ,), [f"--lr {lr}" for lr in (0.03, 0.1, 0.3)]),
    "negatives": ("intra", (SEQ,), [f"--moco-k {k}" for k in (0, 256)]),
    "batch size": ("intra", (SEQ,), [f"--batch-size {n}" for n in (16, 32, 64)]),
    "crop ratio": ("intra", (SEQ,), [f"--min-crop-ratio {r}" for r in (0.1, 0.3, 0.5, 0.7)]),
    "augmentations": ("intra", (SEQ,), [f"--augmentations crop{x}" for x in ("", " pose", " pose jitter")]),
    "jitter": ("intra", (SEQ,), [f"--jitter-joints {n} --jitter-zero-prob {p}" for n, p in JITTER]),
    "head": ("intra", (SEQ,), ["--no-mlp", "--mlp"]),
    "hidden units": ("intra", (SEQ,), [f"--gru-hidden-size {n}" for n in (64, 128)]),
    "queue, inter": ("inter", (SEQ, GRAPH), ["", "--moco-k 256"]),
    "queue, all": ("all", (SEQ, GRAPH), ["", "--moco-k 256"]),
    "alone": ("intra", (SEQ,), ["", INPUT_NORM]),
    "streams jointly": ("intra", JOINT_STREAMS, ["", DISTILL, INPUT_NORM, f"{DISTILL} {INPUT_NORM}"]),
    "distillation start": (
        "intra",
        JOINT_STREAMS,
        [f"--distill inter --distill-start {n}" for n in (0, 100, 200, 400)],
    ),
    "image encoder": ("intra", (IMAGE,), [f"--lr {lr} --image-dropout {p}" for lr, p in IMAGE_RATES]),
}

MODES = {"finetune": ("fine-tuned", "#1b6ca8"), "supervised": ("supervised only", "#d95f02")}
LABEL_SUMMARY, LABEL_FIGURE = "few_labels.json", "few_labels.svg"


def preset_flags(given: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the values of the preset's flags by their names, overridden by those of ``given``."""
    values: dict[str, list[str]] = {}
    for part in [*shlex.split(PRESET.read_text(encoding="utf-8"), comments=True), *given]:
        if part.startswith("--"):
            values[part] = current = []
        else:
            current.append(part)
    return values


@dataclass(frozen=True)
class Recipe:
    """A pretraining without its seed: ``pairs`` is intra, inter or all; ``given`` overrides the preset."""

    pairs: str
    representations: tuple[str, ...]
    steps: int
    given: tuple[str, ...] = ()

    @property
    def added(self) -> tuple[str, ...]:
        """The flags after the preset."""
        return tuple(x for name in self.representations for x in ENCODER_FLAGS.get(name, ())) + self.given

    @property
    def batch_size(self) -> int:
        """Clips per step."""
        return int(preset_flags(self.added)["--batch-size"][0])

    @property
    def title(self) -> str:
        """Pairs and representations, for tables."""
        return f"{self.pairs} {join_representations(self.representations)}"

    @property
    def name(self) -> str:
        """The name of the folder, without the seed."""
        parts = [*self.title.replace(":", "-").split(), f"{self.steps}steps"]
        return "_".join([*parts, *(flag.lstrip("-") for flag in self.added)])


@dataclass(frozen=True)
class Encoder:
    """An encoder to evaluate: concatenated ``representation`` are joined by ``_and_``.

    It is pretrained with ``recipes``, or the ``baseline`` is random or coordinates, or it is ``transferred``:
    a checkpoint per seed.
    """

    representation: str
    recipes: tuple[Recipe, ...] = ()
    baseline: str = ""
    transferred: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """The pretraining, for tables; that of a transferred encoder is in a folder named after its data."""
        if self.transferred:
            return f"on {self.transferred[0].parent.parent.name}"
        names = {RANDOM: "untrained", COORDINATES: COORDINATES}
        return names.get(self.baseline) or ", ".join(recipe.title for recipe in self.recipes)

    @property
    def folder(self) -> str:
        """The name of the folder of its evaluations, without the seed."""
        if self.transferred:
            return "transfer_" + "_".join(self.transferred[0].parent.parts[-2:])
        return self.baseline or "_and_".join(recipe.name for recipe in self.recipes)


class Runs:
    """Build, run and read the jobs on one store, in the folder ``--runs``."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder, self.dataset = Path(args.runs).resolve(), args.dataset
        self.seeds, self.parallel = args.seeds, args.jobs
        self.protocol = args.protocol
        self.data = {"data_root": Path(args.data_root).resolve(), "protocol": args.protocol}
        check_output_folder(self.folder, "--runs")
        self.train, self.val = (
            open_clips(args.data_root, args.dataset, args.protocol, split) for split in ("train", "val")
        )

    def run(self, jobs: Iterable[Job]) -> None:
        """Run the jobs that are not finished; raises ``UserError`` if one fails or was stopped."""
        logs = self.folder / "logs"
        run_jobs(sort_jobs(jobs, skip_done=True), [{}] * self.parallel, logs).check_complete(logs)

    def steps_per_epoch(self, recipe: Recipe) -> int:
        """Return the number of whole batches."""
        return max(len(self.train) // recipe.batch_size, 1)

    def pretraining(self, recipe: Recipe, seed: int) -> Job:
        """Return the job of a pretraining; its output is the last checkpoint."""
        folder = self.folder / f"{recipe.name}_seed{seed}"
        is_single = len(recipe.representations) == 1
        script, *given = script_command(
            f"main_moco_{'intra' if is_single else 'inter'}_skeleton.py",
            {
                "pre_dataset": self.dataset,
                **self.data,
                "skeleton_representation": join_representations(recipe.representations),
                "pairs": None if is_single else recipe.pairs,
                "steps": recipe.steps,
                "seed": seed,
                "monitor_knn": True,
                "checkpoint_path": folder,
                "resume": "auto",
            },
        )
        command = (script, f"@{os.path.relpath(PRESET)}", *given, *recipe.added)
        epochs = math.ceil(recipe.steps / self.steps_per_epoch(recipe))
        return Job(f"pretraining {folder.name}", command, folder / checkpoint_name(epochs - 1))

    def evaluation(self, task: str, encoder: Encoder, seed: int) -> Job:
        """Return the job of ``retrieval`` or ``linear``; the latter writes the scores for ensemble.py."""
        jobs = tuple(self.pretraining(recipe, seed) for recipe in encoder.recipes)
        folder = self.folder / f"{encoder.folder}_seed{seed}"
        output = folder / f"{task}_{encoder.representation.replace(':', '-')}"
        given = {
            "pretrained": [job.output for job in jobs]
            or encoder.baseline
            or encoder.transferred[self.seeds.index(seed)],
            "finetune_skeleton_representation": encoder.representation,
            "finetune_dataset": self.dataset,
            **self.data,
            "seed": seed,
            "output_dir": output,
        }
        if encoder.baseline == COORDINATES:
            del given["finetune_skeleton_representation"]
        if encoder.baseline == RANDOM:
            given |= {name: preset_flags().get("--" + name.replace("_", "-")) for name in size_flags()}
        name = f"{task} {folder.name} {output.name}"
        if task == "retrieval":
            return Job(name, script_command("action_retrieval.py", given), output / RESULTS, jobs)
        scores = output / "scores.npz"  # written after the results
        command = script_command("action_classification.py", {**given, **PROBE, "save_scores": scores})
        return Job(name, command, scores, jobs)

    def row(self, part: str, encoder: Encoder, seed: int) -> Row | None:
        """Return the row of ``results.csv`` of an encoder; None if neither of its evaluations is finished."""
        jobs = {task: self.evaluation(task, encoder, seed) for task in ("retrieval", "linear")}
        numbers = {
            task: read_result(job.output.parent / RESULTS)["numbers"]
            for task, job in jobs.items()
            if job.is_done
        }
        if not numbers:
            return None
        row = {
            "part": part,
            "pretraining": encoder.title,
            "flags": " ".join(flag for recipe in encoder.recipes for flag in recipe.given),
            "encoder": encoder.representation,
            "protocol": self.protocol,
            "seed": str(seed),
            "training clips": str(len(self.train)),
            "validation clips": str(len(self.val)),
        }
        if encoder.recipes:
            row |= {"steps": str(encoder.recipes[0].steps), "minutes": f"{self.minutes(encoder, seed):.2f}"}
        if "retrieval" in numbers:
            row["1-NN"] = f"{numbers['retrieval']['knn']:.3f}"
        for which in ("best", "last") if "linear" in numbers else ():
            row[f"linear {which}"] = f"{numbers['linear'][which]['top1']:.3f}"
        return dict.fromkeys(COLUMNS, "") | row

    def minutes(self, encoder: Encoder, seed: int) -> float:
        """Return the duration of the pretrainings so far, without checkpoints and diagnostics."""
        total = 0.0
        for recipe in encoder.recipes:
            log = read_log(self.pretraining(recipe, seed).output.parent / LOG_FILE)
            clips = self.steps_per_epoch(recipe) * recipe.batch_size
            total += sum(clips / entry["clips_per_second"] for entry in log) / 60
        return total


def concatenated(encoders: Sequence[Encoder]) -> Encoder:
    """Return the concatenation of pretrained encoders."""
    names = join_representations([encoder.representation for encoder in encoders])
    return Encoder(names, tuple(recipe for encoder in encoders for recipe in encoder.recipes))


def encoders_of(part: str, steps: int) -> list[Encoder]:
    """Return the rows of one part of the table or one factor of the study; concatenations come last."""
    if part in STUDY:
        pairs, names, factor = STUDY[part]
        recipes = [study_recipe(pairs, names, flags, steps) for flags in factor]
        evaluated = [*names, join_representations(names)] if names == JOINT_STREAMS else names
        return [Encoder(name, (recipe,)) for recipe in recipes for name in evaluated]
    if part == "reference":
        random = [Encoder(name, baseline=RANDOM) for name in REPRESENTATIONS]
        return [Encoder(SEQ, baseline=COORDINATES), *random]
    if part == "preset":
        return [Encoder(SEQ, (Recipe("intra", (SEQ,), int(preset_flags()["--steps"][0])),))]
    if part in ("inter", "all"):
        recipes = [Recipe(part, pair, steps) for pair in PAIRS]
        return [Encoder(x, (r,)) for r in recipes for x in (*r.representations, r.title.split()[1])]
    names = [with_stream(SEQ, stream) for stream in STREAMS] if part == "streams" else [*REPRESENTATIONS]
    single = {name: Encoder(name, (Recipe("intra", (name,), steps),)) for name in names}
    groups = [names] if part == "streams" else PAIRS
    return [*single.values(), *(concatenated([single[name] for name in group]) for group in groups)]


def study_recipe(pairs: str, names: tuple[str, ...], flags: str, steps: int) -> Recipe:
    """Return a row of the study; flags with the preset's values are left out."""
    recipe, plain = Recipe(pairs, names, steps, tuple(flags.split())), Recipe(pairs, names, steps)
    return plain if preset_flags(recipe.added) == preset_flags(plain.added) else recipe


def run_table(runs: Runs, args: argparse.Namespace) -> None:
    """Run the parts ``--only`` and write the table of all finished runs."""
    if args.command == "transfer":
        parts = {"transfer": [Encoder(args.representation, transferred=tuple(args.pretrained))]}
    else:
        parts = {part: encoders_of(part, args.steps) for part in COMMANDS[args.command]}
    chosen = [encoder for part in args.only for encoder in parts[part]]
    tasks = product(("retrieval", "linear"), chosen, runs.seeds)
    try:
        runs.run(runs.evaluation(*task) for task in tasks)
    finally:
        found = [runs.row(part, *run) for part in parts for run in product(parts[part], runs.seeds)]
        path, rows = runs.folder / RUN_RESULTS, [row for row in found if row]
        rows = merge(read_results(path) if path.exists() else [], rows)
        write_results(path, rows)
        table = [row[1:] for row in summarize(row for row in rows if row["part"] in parts)]
        write(runs.folder / f"{args.command}.md", format_table(table).encode())


def training_job(runs: Runs, args: argparse.Namespace, mode: str, fraction: float, subset: int) -> Job:
    """Return a training; the learning rate is divided by 10 after 60% and 80% of the epochs."""
    checkpoint, seed = args.pretrained[subset % len(args.pretrained)], args.label_seeds[subset]
    folder = runs.folder / f"{mode}_{fraction}_labels{seed}"
    flags = {
        "mode": mode,
        "finetune_dataset": runs.dataset,
        **runs.data,
        "finetune_skeleton_representation": args.representation,
        **({"pretrained": checkpoint} if mode == "finetune" else load_checkpoint(Path(checkpoint))["sizes"]),
        "label_fraction": fraction,
        "label_seed": seed,
        "seed": seed,
        "lr": args.lr,
        "epochs": args.epochs,
        "schedule": (round(0.6 * args.epochs), round(0.8 * args.epochs)),
        "batch_size": args.batch_size,
        "resume": "auto",
        "output_dir": folder,
    }
    return Job(folder.name, script_command("action_classification.py", flags), folder / RESULTS)


def run_labels(runs: Runs, args: argparse.Namespace) -> None:
    """Run all trainings with few labels; write their table, numbers and figure."""
    jobs = {
        (fraction, mode): [training_job(runs, args, mode, fraction, i) for i in range(len(args.label_seeds))]
        for fraction, mode in product(args.fractions, MODES)
    }
    runs.run(job for group in jobs.values() for job in group)
    table = [["labels", "clips", *(title for title, _ in MODES.values()), "fine-tuned better"]]
    rows = []
    for fraction in args.fractions:
        row, cells = {"fraction": fraction}, []
        for mode in MODES:
            results = [read_result(job.output) for job in jobs[fraction, mode]]
            best, row[mode] = ([x["numbers"][epoch]["top1"] for x in results] for epoch in ("best", "last"))
            cells.append(f"{accuracy(best)} ({accuracy(row[mode])})")
        better = sum(a > b for a, b in zip(row["finetune"], row["supervised"], strict=True))
        clips = str(results[0]["clips"]["train"])
        table.append([f"{100 * fraction:g}%", clips, *cells, f"{better} of {len(results)}"])
        rows.append(row)
    write_json(runs.folder / LABEL_SUMMARY, {"rows": rows})
    write(runs.folder / "labels.md", format_table(table).encode())
    write(runs.folder / LABEL_FIGURE, plot_labels([runs.folder]))


def accuracy(values: Sequence[float]) -> str:
    """Return mean and standard deviation as text."""
    return format_accuracy(*mean_and_std(values))


def write(path: Path, content: bytes) -> None:
    """Write a table, which is also printed, or a figure."""
    atomic_write(path, lambda file: file.write(content + b"\n"))
    if path.suffix == ".md":
        print(f"\n{content.decode()}\n")
    print(f"written: {path}", flush=True)


def plot_labels(folders: Sequence[Path]) -> bytes:
    """Plot accuracy over the fraction of the labels as SVG, a panel per folder."""
    figure = new_figure(4.2 * len(folders), 3.4)
    for axes, folder in zip(figure.subplots(1, len(folders), squeeze=False)[0], folders):
        with parse_errors(f"{folder / LABEL_SUMMARY} cannot be read"):
            rows = json.loads((folder / LABEL_SUMMARY).read_text(encoding="utf-8"))["rows"]
        fractions = [100 * row["fraction"] for row in rows]
        for mode, (label, color) in MODES.items():
            means, deviations = zip(*(mean_and_std(row[mode]) for row in rows))
            errors = [deviation or 0.0 for deviation in deviations]
            axes.errorbar(fractions, means, errors, marker="o", capsize=3, color=color, label=label)
        axes.set(title=folder.name.replace("$", r"\$"), xlabel="labels (%)", xscale="log", ylim=(0, 100))
        axes.set_xticks(fractions, [f"{fraction:g}" for fraction in fractions])
        axes.set_xticks([], minor=True)
        axes.set_ylabel("top-1 accuracy (%)")
        style_axes(axes)
        axes.legend(loc="lower right", frameon=False)
    return figure_svg(figure)


# Command -> choices of --only
COMMANDS: dict[str, Sequence[str]] = {
    "table": PARTS,
    "study": [*STUDY],
    "labels": (),
    "transfer": ["transfer"],
}


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("command", choices=COMMANDS, help="what to run")
    add("--data-root", type=expanded_path, default="data", metavar="DIR", help="(default: data)")
    add("--dataset", default="ntu60", metavar="NAME", help="(default: ntu60)")
    add("--protocol", default="cross_subject", metavar="NAME", help="(default: cross_subject)")
    add("--runs", type=expanded_path, required=True, metavar="DIR", help="output folder")
    add("--jobs", type=POSITIVE_INT, default=1, metavar="N", help="parallel runs (default: 1)")
    add("--seeds", type=COUNT, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add("--steps", type=POSITIVE_INT, default=1000, metavar="N", help="(default: 1000)")
    add("--only", nargs="+", choices=[*PARTS, *STUDY], metavar="NAME", help="parts or factors (default: all)")
    add = parser.add_argument_group("labels and transfer").add_argument
    add("--pretrained", type=expanded_path, nargs="+", metavar="PATH", help="pretrainings, one per seed")
    add("--representation", default=SEQ, help=f"encoder to evaluate or fine-tune (default: {SEQ})")
    add("--fractions", type=POSITIVE_FRACTION, nargs="+", default=[0.01, 0.05, 0.1, 1.0], metavar="F")
    add("--label-seeds", type=COUNT, nargs="+", default=[0, 1, 2, 3, 4], metavar="S")
    add("--lr", type=POSITIVE, default=0.01, help="(default: 0.01)")
    add("--epochs", type=POSITIVE_INT, default=50, metavar="N", help="(default: 50)")
    add("--batch-size", type=POSITIVE_INT, default=16, metavar="N", help="(default: 16)")
    add("--plot", type=expanded_path, nargs="+", metavar="DIR", help="only plot the results in these folders")
    args = parser.parse_args()
    args.only = args.only or COMMANDS[args.command]
    if not set(args.only) <= set(COMMANDS[args.command]):
        parser.error(f"{args.command} --only: choose from {', '.join(COMMANDS[args.command])}")
    if args.command == "labels" and not (args.pretrained or args.plot):
        parser.error("labels needs --pretrained or --plot")
    if args.command == "transfer" and len(args.pretrained or ()) != len(args.seeds):
        parser.error("transfer needs --pretrained, one run per seed")
    args.pretrained = [Path(path) for path in last_checkpoints(args.pretrained or [])]
    return args


def main() -> None:
    args = parse_args()
    if args.plot:
        check_output_folder(Path(args.runs), "--runs")
        write(Path(args.runs, LABEL_FIGURE), plot_labels([Path(folder) for folder in args.plot]))
    elif args.command == "labels":
        run_labels(Runs(args), args)
    else:
        run_table(Runs(args), args)


if __name__ == "__main__":
    run_script(main)
