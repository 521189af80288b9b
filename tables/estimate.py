"""Estimate the hours, disk space and memory of the tables from a few real steps and probe epochs.

Every kind of run (a pretraining or a classifier with certain encoders) is started once with its real
command on a small store of random clips, in the environment of the first slot. Its log contains the
speed of the second epoch. The hours of all jobs follow from their numbers of clips and epochs: those of
the stores if they exist, otherwise the published ones.
"""

from __future__ import annotations

import argparse
import csv
import functools
import heapq
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from dataset.clips import open_clips
from dataset.store_format import CLIP_COLUMNS, CLIPS_FILE, FORMAT_VERSION, FRAMES_FILE, INFO_FILE
from engine.log import LOG_FILE, read_log
from engine.report import RESULTS, format_table
from facts.datasets import DATASETS
from facts.skeletons import KINECT_V2
from models.registry import join_representations
from utils.errors import UserError

from .jobs import JobBuilder
from .paper import PaperRow
from .plan import EvaluationSpec, PretrainingSpec, evaluations_of
from .run import Job, describe_exit, end_with_parent, sort_jobs

GPU_STEPS, CPU_STEPS = 30, 1  # steps per epoch of a timed run
FRAMES_PER_CLIP = 100  # of timed clips, and of datasets whose store does not exist
FRAME_SHAPE = KINECT_V2.frame_shape  # of all datasets of the tables

Spec = PretrainingSpec | EvaluationSpec


@dataclass(frozen=True)
class Speed:
    """Measurements of a timed run."""

    seconds_per_clip: float  # of a training epoch
    disk: int  # bytes in the folder of the run
    memory: int  # peak in bytes: of the GPU, or of the process without one


@dataclass(frozen=True)
class Cost:
    """The estimate for one or more jobs."""

    seconds: float = 0.0
    disk: int = 0  # bytes
    memory: int = 0  # bytes, peak

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both, one after the other."""
        disk = self.disk + other.disk
        return Cost(self.seconds + other.seconds, disk, max(self.memory, other.memory))


def training_flags(job: Job) -> argparse.Namespace:
    """Return epochs, batch size and label fraction of a command; the last occurrence of a flag counts."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("-b", "--batch-size", type=int, default=64)
    parser.add_argument("--label-fraction", type=float, default=1.0)
    parser.add_argument("--data-device", default="auto")
    return parser.parse_known_args(job.command[1:])[0]


def write_random_store(folder: Path, dataset: str, protocol: str, train: int, val: int) -> None:
    """Write a store of random clips with one protocol."""
    folder.mkdir(parents=True)
    info = DATASETS[dataset]
    frames = np.random.default_rng(0).normal(size=((train + val) * FRAMES_PER_CLIP, *FRAME_SHAPE))
    np.save(folder / FRAMES_FILE, frames.astype(np.float32))
    with open(folder / CLIPS_FILE, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*CLIP_COLUMNS, protocol])
        for i in range(train + val):
            split = "train" if i < train else "val"
            writer.writerow([f"clip{i}", i % info.num_classes, i * FRAMES_PER_CLIP, FRAMES_PER_CLIP, split])
    description = {"format_version": FORMAT_VERSION, "dataset": dataset, "num_classes": info.num_classes}
    (folder / INFO_FILE).write_text(json.dumps(description), encoding="utf-8")


@functools.cache
def count_clips(data_root: Path, dataset: str, protocol: str) -> tuple[int, int, int]:
    """Return training clips, validation clips and bytes of frames, of the store or as published.

    Raises:
        UserError: there is neither a store nor a published number.
    """
    published = DATASETS[dataset].official_counts
    try:
        train, val = (open_clips(str(data_root), dataset, protocol, split) for split in ("train", "val"))
        return len(train), len(val), train.frames.nbytes
    except UserError as error:
        if protocol not in published:
            raise UserError(f"--estimate: the number of clips is not known ({error})") from error
        print(f"note: no store of {dataset} {protocol}: using the published number of clips")
    frame_bytes = 4 * math.prod(FRAME_SHAPE)
    return *published[protocol], sum(published[protocol]) * FRAMES_PER_CLIP * frame_bytes


def directory_size(folder: Path) -> int:
    """Return the bytes of all files under ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run_timed(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Run a command and return the peak memory of its process in bytes.

    Raises:
        UserError: it failed; the message contains the signal or the last line of its output.
    """
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            preexec_fn=end_with_parent,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"--estimate: a timed run failed: {describe_exit(process.returncode, log)}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass
class Stopwatch:
    """Times each kind of run once and estimates jobs from it.

    Args:
        builder: builds the commands.
        environment: variables of the timed runs, such as ``CUDA_VISIBLE_DEVICES``.
    """

    builder: JobBuilder
    environment: Mapping[str, str]
    device: str = ""  # of the timed runs, in words
    _speeds: dict[tuple[str, tuple[str, ...]], Speed] = field(default_factory=dict)

    def speed(self, spec: Spec) -> Speed:
        """Return the speed of a pretraining, a linear probe or a supervised training."""
        kind = spec.contrast if isinstance(spec, PretrainingSpec) else spec.task
        key = kind, spec.representations
        if key not in self._speeds:
            print(f"timing: {kind}, {join_representations(spec.representations)}", end="", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                self._speeds[key] = speed = self._time(spec, Path(folder))
            print(f": {1 / speed.seconds_per_clip:,.1f} clips/s, {speed.memory / 1e9:.2f} GB", flush=True)
        return self._speeds[key]

    def _time(self, spec: Spec, folder: Path) -> Speed:
        """Run two epochs of the command of ``spec`` on random clips."""
        run, data = folder / "run", folder / "data"
        if isinstance(spec, PretrainingSpec):
            job, changes = self.builder.pretraining(spec), ["--checkpoint-path", run]
        else:
            job, changes = self.builder.evaluation(spec), ["--output-dir", run]
            if spec.task == "linear":
                changes += ["--pretrained", "random"]
        changes += ["--data-root", data, "--epochs", 2]
        batch = training_flags(job).batch_size
        train = batch * (GPU_STEPS if torch.cuda.is_available() else CPU_STEPS)
        write_random_store(data / spec.dataset, spec.dataset, spec.protocol, train, batch)
        peak = run_timed([*job.command, *map(str, changes)], self.environment, folder / "output.txt")
        last = read_log(run / LOG_FILE)[-1]
        if isinstance(spec, PretrainingSpec):
            seconds = 1 / last["clips_per_second"]
        else:
            seconds = last["seconds"] / train
            self.device = json.loads((run / RESULTS).read_text(encoding="utf-8"))["device"]
        memory = int(1e9 * last["gpu_memory_gb"]) if "gpu_memory_gb" in last else peak
        return Speed(seconds, directory_size(run), memory)

    def cost(self, spec: Spec, job: Job) -> Cost:
        """Estimate one job."""
        train, val, frames = count_clips(self.builder.data_root, spec.dataset, spec.protocol)
        flags = training_flags(job)
        if isinstance(spec, PretrainingSpec):
            speed = self.speed(spec)
            seconds = flags.epochs * (train - train % flags.batch_size) * speed.seconds_per_clip
        else:
            untrained = replace(spec, pretrained=(), label_fraction=None)
            speed = features = self.speed(replace(untrained, task="linear"))
            if spec.task == "retrieval":
                seconds = (train + val) * features.seconds_per_clip
            elif spec.task == "linear":
                seconds = (flags.epochs * train + val) * features.seconds_per_clip
            else:  # the classifier is evaluated after every epoch
                speed = self.speed(replace(untrained, task="supervised"))
                trained = flags.label_fraction * train * speed.seconds_per_clip
                seconds = flags.epochs * (trained + val * features.seconds_per_clip)
        on_gpu = torch.cuda.is_available() and flags.data_device != "cpu"
        return Cost(seconds, speed.disk, speed.memory + (frames if on_gpu else 0))


def finishing_time(jobs: Sequence[Job], seconds: Mapping[str, float], slots: int) -> float:
    """Return when the last job ends, in seconds, if ``run_jobs`` runs them in ``slots`` slots."""
    waiting, running, now = list(jobs), list[tuple[float, str]](), 0.0
    unfinished = {job.name for job in jobs}
    while waiting or running:
        ready = [job for job in waiting if not any(d.name in unfinished for d in job.dependencies)]
        for job in ready[: slots - len(running)]:
            waiting.remove(job)
            heapq.heappush(running, (now + seconds[job.name], job.name))
        now, name = heapq.heappop(running)
        unfinished.remove(name)
    return now


def specs_by_job(rows: Sequence[PaperRow], builder: JobBuilder, seeds: Sequence[int]) -> dict[str, Spec]:
    """Return the specification of every job of the cells ``rows`` by the name of the job."""
    specs: dict[str, Spec] = {}
    for row in rows:
        for spec in evaluations_of(row, seeds, builder.scale.label_seeds):
            specs[builder.evaluation(spec).name] = spec
            specs |= {builder.pretraining(pretraining).name: pretraining for pretraining in spec.pretrained}
    return specs


def print_estimate(
    rows: Sequence[PaperRow], builder: JobBuilder, seeds: Sequence[int], slots: Sequence[Mapping[str, str]]
) -> None:
    """Time the kinds of runs that ``rows`` need and print one line per table.

    Args:
        rows: the cells.
        builder: builds the commands; its scale is the paper's.
        seeds: seeds of pretraining and evaluation.
        slots: for each parallel job, its environment variables. The first one is used for timing.
    """
    watch, specs = Stopwatch(builder, slots[0]), specs_by_job(rows, builder, seeds)
    remaining = sort_jobs(builder.evaluations(rows, seeds), skip_done=True)
    costs = {job.name: watch.cost(specs[job.name], job) for job in remaining}
    seconds = {name: cost.seconds for name, cost in costs.items()}
    lines = [["table", "jobs", "job hours", f"hours, {len(slots)} at a time", "disk, GB", "memory, GB"]]
    tables = {table: [row for row in rows if row.table == table] for table in {row.table: 0 for row in rows}}
    for title, cells in {**tables, "all": rows}.items():
        jobs = sort_jobs(builder.evaluations(cells, seeds), skip_done=True)
        total = sum((costs[job.name] for job in jobs), Cost())
        hours = total.seconds / 3600, finishing_time(jobs, seconds, len(slots)) / 3600
        numbers = [*hours, total.disk / 1e9, total.memory / 1e9]
        lines.append([title, str(len(jobs)), *(f"{number:,.1f}" for number in numbers)])
    print(f"\n{format_table(lines)}\n")
    print(
        f"Timed on {watch.device or 'no device: all jobs are finished'}. Tables share jobs, so 'all' is less "
        "than the sum. Memory is the peak of one job: of a GPU including the clips, otherwise of the process."
    )
