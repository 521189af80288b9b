"""Pretrainings with the preset for small datasets and their evaluations, as jobs of ``tables.run``.

Shared by the benchmarks on real data. Everything is in one folder: the store, a folder per pretraining and
seed with checkpoints and evaluations, and the logs of all jobs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads do not speed up encoders this small

import torch

from dataset.augment import augmentation_names
from dataset.clips import ClipSet, open_clips
from dataset.store_format import INFO_FILE
from engine.checkpoint import checkpoint_name
from engine.encoders import COORDINATES, RANDOM, load_encoders
from engine.features import FeatureExtractor
from engine.log import LOG_FILE, read_log
from engine.report import RESULTS, read_result
from engine.retrieve import knn_accuracy
from models.hcn import IMAGE
from models.registry import join_representations
from options import flags
from options.parser import COUNT, POSITIVE_INT, Parser, expanded_path
from tables.run import Job, RunSummary, run_jobs, script_command, sort_jobs
from tables.write import format_accuracy, mean_and_std
from utils.files import check_output_folder, write_json

PRESET = REPOSITORY / "presets" / "small_dataset.txt"
# Flags that an encoder needs besides the preset; they are added to every pretraining that contains it.
ENCODER_FLAGS = {IMAGE.name: ("--lr", "0.03")}
PROBE = {"epochs": 40, "schedule": (25, 35), "cached_crops": 8}
DATASET, PROTOCOL = "ntu60", "cross_subject"
CURVE_POINTS = 8  # checkpoints per pretraining, besides the one after the first epoch


@dataclass(frozen=True)
class Contrast:
    """A pretraining without its seed: ``pairs`` is intra, inter or all; ``flags`` override the preset."""

    pairs: str
    representations: tuple[str, ...]
    steps: int
    flags: tuple[str, ...] = ()

    @property
    def all_flags(self) -> tuple[str, ...]:
        """The flags added to the preset."""
        return tuple(x for name in self.representations for x in ENCODER_FLAGS.get(name, ())) + self.flags

    @property
    def title(self) -> str:
        """Pairs and representations, for tables."""
        return f"{self.pairs} {join_representations(self.representations)}"

    @property
    def name(self) -> str:
        """The name of the folder, without the seed."""
        parts = [*self.title.replace(":", "-").split(), f"{self.steps}steps"]
        return "_".join([*parts, *(flag.lstrip("-") for flag in self.all_flags)])


@dataclass(frozen=True)
class Encoder:
    """An encoder to evaluate.

    Args:
        representation: several joined by ``_and_`` are concatenated.
        source: its pretrainings; or ``random`` or ``coordinates``.
    """

    representation: str
    source: str | tuple[Contrast, ...]

    @property
    def title(self) -> str:
        """How it was pretrained, for tables."""
        if isinstance(self.source, str):
            return {COORDINATES: "none", RANDOM: "untrained"}[self.source]
        return ", ".join(contrast.title for contrast in self.source)

    @property
    def label(self) -> str:
        """The features that are evaluated, for tables."""
        return COORDINATES if self.source == COORDINATES else self.representation

    @property
    def folder(self) -> str:
        """The name of the folder of its evaluations, without the seed."""
        return self.source if isinstance(self.source, str) else "_and_".join(x.name for x in self.source)


def parse_preset(given: Sequence[str] = ()) -> argparse.Namespace:
    """Return the values of the preset's flags, overridden by those of ``given``."""
    parser = Parser("", presets=True)
    flags.add_contrast_flags(parser, "", "")
    flags.add_augmentation_flags(parser, augmentation_names())
    flags.add_size_flags(parser)
    flags.add_optimization_flags(parser, epochs=None, lr=None, schedule=None, weight_decay=0.0)
    flags.add_steps_flag(parser)
    return parser.parse_known_args([f"@{PRESET}", *given])[0]


def run_all(jobs: Iterable[Job], count: int, folder: Path) -> RunSummary:
    """Run jobs that are not finished, ``count`` at a time, with their logs in ``folder/logs``."""
    return run_jobs(sort_jobs(jobs, skip_done=True), [{}] * count, folder / "logs")


def prepare_store(raw: Path, folder: Path) -> None:
    """Convert the skeleton files in ``raw`` to the store of ``folder``, if it does not exist."""
    store = folder / "data" / DATASET
    command = script_command("data_gen/ntu_gendata.py", {"data_path": raw, "out_folder": store})
    run_all([Job("store", command, store / INFO_FILE)], 1, folder).check_complete(folder / "logs")


def retrieval_accuracy(checkpoint: Path, representation: str, train: ClipSet, val: ClipSet) -> float:
    """Return the 1-NN accuracy of one encoder of a checkpoint in percent, as ``action_retrieval.py``."""
    encoders = load_encoders(str(checkpoint), representations=representation, skeleton=train.skeleton)
    extractor = FeatureExtractor(encoders, torch.device("cpu"))
    gallery, queries = (extractor.center_crop_features(clips, clips.split) for clips in (train, val))
    return knn_accuracy(queries, val.labels, gallery, train.labels, 1, train.num_classes)


class Runs:
    """Builds the jobs on the store of ``folder`` and reads their results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = {"data_root": folder / "data", "protocol": PROTOCOL}
        self.train, self.val = (
            open_clips(str(folder / "data"), DATASET, PROTOCOL, split) for split in ("train", "val")
        )

    def steps_per_epoch(self, contrast: Contrast) -> int:
        """Return the number of steps, with the batch size of the preset or of the contrast's flags."""
        return max(len(self.train) // parse_preset(contrast.all_flags).batch_size, 1)

    def saved_epochs(self, contrast: Contrast) -> tuple[int, list[int]]:
        """Return the number of epochs between checkpoints, and the epochs after which there is one."""
        epochs = math.ceil(contrast.steps / self.steps_per_epoch(contrast))
        interval = math.ceil(epochs / CURVE_POINTS)
        return interval, sorted({*range(0, epochs, interval), epochs - 1})

    def pretraining(self, contrast: Contrast, seed: int) -> Job:
        """Return the job of a pretraining; its output is the last checkpoint."""
        folder = self.folder / f"{contrast.name}_seed{seed}"
        interval, epochs = self.saved_epochs(contrast)
        script, *given = script_command(
            f"main_moco_{'intra' if contrast.pairs == 'intra' else 'inter'}_skeleton.py",
            {
                "pre_dataset": DATASET,
                **self.data,
                "skeleton_representation": join_representations(contrast.representations),
                "pairs": None if contrast.pairs == "intra" else contrast.pairs,
                "epochs": epochs[-1] + 1,
                "save_freq": interval,
                "seed": seed,
                "checkpoint_path": folder,
                "resume": "auto",
            },
        )
        command = (script, f"@{os.path.relpath(PRESET)}", *given, *contrast.all_flags)
        return Job(f"pretraining {folder.name}", command, folder / checkpoint_name(epochs[-1]))

    def evaluation(self, task: str, encoder: Encoder, seed: int) -> Job:
        """Return the job of ``retrieval`` or ``linear``; the latter writes the scores for ensemble.py."""
        source = encoder.source
        jobs = () if isinstance(source, str) else tuple(self.pretraining(x, seed) for x in source)
        folder = self.folder / f"{encoder.folder}_seed{seed}"
        output = folder / f"{task}_{encoder.representation.replace(':', '-')}"
        given = {
            "pretrained": [job.output for job in jobs] or source,
            "finetune_skeleton_representation": None if source == COORDINATES else encoder.representation,
            "finetune_dataset": DATASET,
            **self.data,
            "seed": seed,
            "output_dir": output,
        }
        if source == RANDOM:
            given |= flags.given_sizes(parse_preset())
        name = f"{task} {folder.name} {output.name}"
        if task == "retrieval":
            return Job(name, script_command("action_retrieval.py", given), output / RESULTS, jobs)
        scores = output / "scores.npz"  # written after the results
        command = script_command("action_classification.py", {**given, **PROBE, "save_scores": scores})
        return Job(name, command, scores, jobs)

    def evaluations(self, encoders: Iterable[Encoder], seeds: Sequence[int]) -> list[Job]:
        """Return the jobs of retrieval and linear probe of all encoders, with all seeds."""
        return [
            self.evaluation(task, encoder, seed)
            for seed in seeds
            for encoder in encoders
            for task in ("retrieval", "linear")
        ]

    def accuracies(self, encoder: Encoder, seeds: Sequence[int]) -> list[str]:
        """Return 1-NN, linear best and linear last as text, over the seeds that are finished."""
        retrievals, probes = (
            [read_result(job.output.parent / RESULTS)["numbers"] for job in jobs if job.is_done]
            for jobs in ([self.evaluation(t, encoder, s) for s in seeds] for t in ("retrieval", "linear"))
        )
        columns = [[numbers["knn"] for numbers in retrievals]]
        columns += [[numbers[which]["top1"] for numbers in probes] for which in ("best", "last")]
        return [format_accuracy(*mean_and_std(values)) for values in columns]

    def minutes(self, contrast: Contrast, seed: int) -> float:
        """Return the duration of a pretraining, without checkpoints and diagnostics."""
        log = read_log(self.pretraining(contrast, seed).output.parent / LOG_FILE)
        clips = self.steps_per_epoch(contrast) * parse_preset(contrast.all_flags).batch_size
        return sum(clips / entry["clips_per_second"] for entry in log) / 60

    def learning_curves(self, contrast: Contrast, seed: int) -> dict[str, list[tuple[int, float]]]:
        """Return per representation the points (steps, 1-NN) of the checkpoints of a finished pretraining.

        They are measured once and stored in the folder of the run.
        """
        folder = self.pretraining(contrast, seed).output.parent
        path, steps = folder / "learning_curves.json", self.steps_per_epoch(contrast)
        if not path.exists():
            curves = {
                name: [
                    (
                        steps * (epoch + 1),
                        retrieval_accuracy(folder / checkpoint_name(epoch), name, self.train, self.val),
                    )
                    for epoch in self.saved_epochs(contrast)[1]
                ]
                for name in contrast.representations
            }
            write_json(path, curves)
        return json.loads(path.read_text())


def add_run_flags(parser: Parser, name: str) -> None:
    """Add the input, the seeds, the output folder and the number of jobs of the benchmark ``name``."""
    parser.add_argument(
        "--raw", type=expanded_path, required=True, metavar="DIR", help="folder with skeleton files"
    )
    parser.add_argument("--seeds", type=COUNT, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument(
        "--runs",
        type=expanded_path,
        metavar="DIR",
        help=f"output folder (default: runs/{name}_NAME of the raw files)",
    )
    parser.add_argument(
        "--jobs", type=POSITIVE_INT, default=1, metavar="N", help="parallel runs (default: 1)"
    )


def open_runs(args: argparse.Namespace, name: str) -> Runs:
    """Return the runs in ``--runs`` or its default, after preparing the store of ``--raw``."""
    raw = Path(args.raw).resolve()
    folder = Path(args.runs or REPOSITORY / "runs" / f"{name}_{raw.name}").resolve()
    check_output_folder(folder, "--runs")
    prepare_store(raw, folder)
    return Runs(folder)
