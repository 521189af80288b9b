"""Estimate the hours, disk space and memory of the tables from a few real steps and probe epochs.

Every kind of run (a pretraining or a classifier with certain encoders) runs once for two epochs on random
clips. The hours of all jobs follow from the speed of the second and their numbers of clips and epochs.
"""

import argparse
import functools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data_gen.own_clips import Clip, write_store
from dataset.clips import open_clips
from engine.checkpoint import checkpoint_name
from engine.log import LOG_FILE, read_log
from engine.report import RESULTS, format_table
from facts.datasets import DATASETS
from facts.skeletons import KINECT_V2
from models.registry import join_representations
from utils.errors import UserError

from .jobs import JobBuilder
from .paper import PaperRow
from .plan import EvaluationSpec, PretrainingSpec, evaluations_of
from .run import Job, run_jobs, sort_jobs

GPU_STEPS, CPU_STEPS = 30, 1  # steps per epoch of a timed run
FRAMES_PER_CLIP = 100  # of timed clips, and of datasets whose store does not exist
FRAME_SHAPE = KINECT_V2.frame_shape

Spec = PretrainingSpec | EvaluationSpec


@dataclass(frozen=True)
class Cost:
    """The cost of a job, or of one training clip of a timed run."""

    seconds: float
    disk: int  # bytes
    memory: int  # bytes, peak of the GPU


def training_flags(job: Job) -> argparse.Namespace:
    """Return the flags of a command that determine its length; the last occurrence of a flag counts."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("-b", "--batch-size", type=int, default=64)
    parser.add_argument("--label-fraction", type=float, default=1.0)
    parser.add_argument("--data-device", default="auto")
    return parser.parse_known_args(job.command[1:])[0]


@functools.cache
def count_clips(data_root: Path, dataset: str, protocol: str) -> tuple[int, int, int]:
    """Return training clips, validation clips and bytes of frames, of the store or as published."""
    if (data_root / dataset).exists():
        train, val = (open_clips(str(data_root), dataset, protocol, split) for split in ("train", "val"))
        return len(train), len(val), train.frames.nbytes
    print(f"note: no store of {dataset}: using the published number of clips of {protocol}")
    published = DATASETS[dataset].official_counts[protocol]
    return *published, 4 * sum(published) * FRAMES_PER_CLIP * math.prod(FRAME_SHAPE)


def kinds_of(spec: Spec) -> dict[str, Spec]:
    """Return by name the kinds of runs that are timed for ``spec``; fine-tuning encodes and trains."""
    name = join_representations(spec.representations)
    if isinstance(spec, PretrainingSpec):
        return {f"{spec.contrast} {name}": spec}
    tasks = ("linear", "supervised") if spec.task in ("finetune", "supervised") else ("linear",)
    plain = replace(spec, pretrained=(), label_fraction=None)
    return {f"{task} {name}": replace(plain, task=task) for task in tasks}


def time_kind(name: str, spec: Spec, builder: JobBuilder, slot: Mapping[str, str]) -> Cost:
    """Run two epochs of a kind of run on random clips; return the cost per clip."""
    pretraining = isinstance(spec, PretrainingSpec)
    job = builder.pretraining(spec) if pretraining else builder.evaluation(spec)
    batch = training_flags(job).batch_size
    train = batch * (GPU_STEPS if torch.cuda.is_available() else CPU_STEPS)
    classes, size = DATASETS[spec.dataset].num_classes, (FRAMES_PER_CLIP, *FRAME_SHAPE)
    frames = np.random.default_rng(0).uniform(-0.5, 0.5, size).astype(np.float32)  # meters
    splits = ["train"] * train + ["val"] * batch
    clips = [Clip(f"{i:06d}", i % classes, frames, {spec.protocol: x}) for i, x in enumerate(splits)]
    with tempfile.TemporaryDirectory() as temporary:
        run, data = Path(temporary, "run"), Path(temporary, "data")
        write_store(data / spec.dataset, clips, classes, [spec.protocol], normalize=False)
        changes = ["--checkpoint-path" if pretraining else "--output-dir", str(run), "--epochs", "2"]
        changes += ["--data-root", str(data), *(["--pretrained", "random"] if name[:6] == "linear" else [])]
        output = run / (checkpoint_name(1) if pretraining else RESULTS)
        summary = run_jobs([Job(name, (*job.command, *changes), output)], [slot], Path(temporary))
        for reason in summary.failed.values():
            raise UserError(f"--estimate: timing {name} failed: {reason.rpartition(' (')[0]}")
        summary.check_complete(Path(temporary))
        last = read_log(run / LOG_FILE)[-1]
        disk = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    seconds = 1 / last["clips_per_second"] if pretraining else last["seconds"] / train
    return Cost(seconds, disk, int(1e9 * last.get("gpu_memory_gb", 0)))


def cost_of(spec: Spec, job: Job, per_clip: Mapping[str, Cost], data_root: Path) -> Cost:
    """Estimate one job from the costs per clip of its kinds."""
    train, val, frames = count_clips(data_root, spec.dataset, spec.protocol)
    flags, kinds = training_flags(job), [per_clip[name] for name in kinds_of(spec)]
    if isinstance(spec, PretrainingSpec):
        clips = [flags.epochs * (train - train % flags.batch_size)]
    elif spec.task == "retrieval":
        clips = [train + val]
    elif spec.task == "linear":  # validation features are computed once
        clips = [flags.epochs * train + val]
    else:  # the classifier is evaluated after every epoch
        clips = [flags.epochs * val, flags.epochs * flags.label_fraction * train]
    seconds = sum(count * kind.seconds for count, kind in zip(clips, kinds, strict=True))
    on_gpu = kinds[-1].memory and flags.data_device != "cpu"
    return Cost(seconds, kinds[-1].disk, kinds[-1].memory + (frames if on_gpu else 0))


def hours_in_parallel(jobs: Sequence[Job], seconds: Mapping[str, float], slots: int) -> float:
    """Return at least how long ``jobs`` take: all slots busy, or an evaluation after its pretrainings."""
    before = {job.name: max([seconds.get(d.name, 0.0) for d in job.dependencies] + [0.0]) for job in jobs}
    chains = [before[job.name] + seconds[job.name] for job in jobs]
    return max(sum(seconds[job.name] for job in jobs) / slots, *chains, 0.0) / 3600


def print_estimate(
    rows: Sequence[PaperRow], builder: JobBuilder, seeds: Sequence[int], slots: Sequence[Mapping[str, str]]
) -> None:
    """Time the kinds of runs that the cells ``rows`` need, in the first slot; print one line per table."""
    specs: dict[str, Spec] = {}  # by the name of the job
    for row in rows:
        for spec in evaluations_of(row, seeds, builder.scale.label_seeds):
            specs[builder.evaluation(spec).name] = spec
            specs |= {builder.pretraining(pretraining).name: pretraining for pretraining in spec.pretrained}
    remaining = sort_jobs(builder.evaluations(rows, seeds), skip_done=True)
    kinds = {name: kind for job in remaining for name, kind in kinds_of(specs[job.name]).items()}
    per_clip = {name: time_kind(name, kind, builder, slots[0]) for name, kind in kinds.items()}
    costs = {job.name: cost_of(specs[job.name], job, per_clip, builder.data_root) for job in remaining}
    seconds = {name: cost.seconds for name, cost in costs.items()}
    lines = [["table", "jobs", "job hours", f"hours, {len(slots)} at a time", "disk, GB", "GPU memory, GB"]]
    for title in [*dict.fromkeys(row.table for row in rows), "all"]:
        cells = [row for row in rows if title in (row.table, "all")]
        jobs = sort_jobs(builder.evaluations(cells, seeds), skip_done=True)
        each = [costs[job.name] for job in jobs]
        hours = sum(cost.seconds for cost in each) / 3600, hours_in_parallel(jobs, seconds, len(slots))
        disk, memory = sum(cost.disk for cost in each), max((cost.memory for cost in each), default=0)
        numbers = (*hours, disk / 1e9, memory / 1e9)
        lines.append([title, str(len(jobs)), *(f"{number:,.1f}" for number in numbers)])
    print(f"\n{format_table(lines)}\n\nTables share jobs, so 'all' is less than the sum.")
