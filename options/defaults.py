"""Values of flags that were not given, and checks of flags that must agree with each other."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset.augment import jittered_joints
from dataset.clips import ClipSet
from facts.datasets import DATASETS, DatasetInfo
from facts.skeletons import Skeleton
from models.registry import complete_sizes, join_representations, size_flags

from .flags import CLASSIFIER_DEFAULTS, pretraining_parser
from .parser import Flags, reject, spelled

CHECKPOINTS, MEASUREMENTS = 20, 40  # per run of --steps


def complete_pretraining(
    args: argparse.Namespace,
    representations: Sequence[str],
    clips: ClipSet,
    seed: int,
    stored: Mapping[str, Any],
) -> tuple[Flags, list[str]]:
    """Complete and check the flags of a pretraining; return them and a line about each default for the log.

    Sizes are taken from ``stored``, the flags of the run that is resumed, empty if there is none. Raises
    ``UserError`` for flags that do not agree with each other or with the training ``clips``.
    """
    flags = {**vars(args), "seed": seed, "skeleton_representation": join_representations(representations)}
    given_or_stored = {
        name: stored.get(name) if flags[name] is None else flags[name] for name in size_flags()
    }
    flags |= complete_sizes(given_or_stored)
    flags["checkpoint_path"] = str(checkpoint_folder(args, representations))
    lines = []
    if args.steps is not None:
        no_schedule = not args.cos and args.schedule is None
        reject((no_schedule, "--steps needs a learning-rate schedule: add --cos or --schedule"))
        per_epoch = max(len(clips) // args.batch_size, 1)
        flags["epochs"] = math.ceil(args.steps / per_epoch)
        lines.append(f"--epochs {flags['epochs']} (--steps {args.steps}, {per_epoch} per epoch)")
    known = args.dataset in DATASETS
    info = DATASETS[args.dataset] if known else DatasetInfo(args.dataset, 0, ())
    source = args.dataset if known else "datasets without an entry in facts/datasets.py"
    schedule = [] if args.cos else list(info.schedule)  # the cosine has no milestones
    lines += fill(flags, {"moco_k": info.moco_k, "epochs": info.epochs, "schedule": schedule}, source)
    lines += fill(flags, {"jitter_joints": jittered_joints(clips.skeleton)}, clips.skeleton.name)
    for name, number in (("save_freq", CHECKPOINTS), ("monitor_freq", MEASUREMENTS)):
        if flags[name] is None:
            flags[name] = 10 if args.steps is None else math.ceil(flags["epochs"] / number)
    complete = Flags(args, **flags)
    check_epochs(complete)
    check_queue(complete, len(clips))
    check_distillation(complete, len(clips))
    return complete, lines + queue_note(complete, len(clips))


def flag_defaults(args: Flags) -> dict[str, Any]:
    """Return the defaults of a pretraining's flags, for those that an older checkpoint does not store."""
    contrast = "intra" if args.pairs == "intra" else "inter"
    return {**vars(pretraining_parser("", contrast).parse_args([])), **complete_sizes({})}


def fill(flags: dict[str, Any], defaults: Mapping[str, Any], source: str) -> list[str]:
    """Set those of ``flags`` in ``defaults`` that were not given; return a line about each for the log."""
    missing = {name: value for name, value in defaults.items() if flags[name] is None}
    flags |= missing
    return [f"{spelled(name, value)} (default for {source})" for name, value in missing.items()]


def fill_defaults(args: argparse.Namespace, defaults: dict, source: str) -> list[str]:
    """Set the flags in ``defaults`` that were not given; return a line about each for the log."""
    if args.cos and "schedule" in defaults:
        defaults = {**defaults, "schedule": []}  # the cosine has no milestones
    return fill(vars(args), defaults, source)


def fill_augmentation_defaults(args: argparse.Namespace, skeleton: Skeleton) -> list[str]:
    """Set the number of jittered joints by the skeleton; return a line about it for the log."""
    return fill(vars(args), {"jitter_joints": jittered_joints(skeleton)}, skeleton.name)


def checkpoint_folder(args: argparse.Namespace, representations: Sequence[str]) -> Path:
    """Return ``--checkpoint-path``, or the folder that the official commands use for such a run."""
    if args.checkpoint_path:
        return Path(args.checkpoint_path)
    contrast = {"intra": "intraskeleton", "inter": "interskeleton", "all": "allskeleton"}[args.pairs]
    dataset = re.sub(r"(\d+)$", r"_\1", args.dataset) if args.dataset in DATASETS else args.dataset
    names = "_".join(re.sub(r"\W", "_", name) for name in representations)
    return Path("checkpoints", f"{dataset}_{args.protocol}", f"{contrast}_{names}")


def fill_classifier_defaults(args: argparse.Namespace) -> list[str]:
    """Set optimizer, learning rate, epochs and schedule by ``--mode``; return a line about each."""
    defaults = dict(CLASSIFIER_DEFAULTS[args.mode])
    is_sgd = (args.optimizer or defaults["optimizer"]) == "sgd"
    has_momentum = not is_sgd and args.momentum is not None
    reject((has_momentum, "--momentum applies to SGD, but the optimizer is Adam: omit it"))
    return fill_defaults(args, {**defaults, "momentum": 0.9} if is_sgd else defaults, f"--mode {args.mode}")


def check_mode(args: argparse.Namespace) -> None:
    """Raise ``UserError`` for flags that have no effect with ``--mode`` or without ``--label-fraction``."""
    given, is_supervised = args.pretrained or [], args.mode == "supervised"
    untrained = {"random", "coordinates"} & {*given}
    samples = (args.label_sampling, args.label_seed) != (None, None)
    reject(
        (is_supervised and given, "--mode supervised starts from random weights: omit --pretrained"),
        (
            not is_supervised and not given,
            f"--mode {args.mode} needs --pretrained; only --mode supervised works without it",
        ),
        (
            args.mode == "finetune" and untrained,
            f"--mode finetune needs a pretrained encoder, not --pretrained {' '.join(given)}; to train from "
            "random weights, use --mode supervised",
        ),
        (
            args.mode != "linear" and args.cached_crops is not None,
            f"--cached-crops needs a frozen encoder, but --mode {args.mode} trains it: omit the flag",
        ),
        (
            samples and args.label_fraction is None,
            "--label-sampling and --label-seed have no effect without --label-fraction: add it",
        ),
    )
    if is_supervised:
        args.pretrained = ["random"]
    if args.label_fraction is not None:
        args.label_sampling, args.label_seed = args.label_sampling or "balanced", args.label_seed or 0


def check_epochs(args: argparse.Namespace) -> None:
    """Raise ``UserError`` if ``--start-epoch`` leaves no epoch to train."""
    message = f"--start-epoch {args.start_epoch} leaves no epoch of --epochs {args.epochs} to train"
    reject((args.start_epoch >= args.epochs, f"{message}; epochs are counted from 0"))


def check_distillation(args: argparse.Namespace, num_clips: int) -> None:
    """Raise ``UserError`` if the run is over before ``--distill-start``."""
    steps, start = args.epochs * (num_clips // args.batch_size), args.distill_start
    message = f"--distill-start {start}: the run has only {steps} steps; lower it, for example to a tenth"
    reject((args.distill != "none" and start >= steps, message))


def check_queue(args: argparse.Namespace, num_clips: int) -> None:
    """Raise ``UserError`` if the batch size does not divide the queue, or exceeds the training set."""
    near = max(args.moco_k // args.batch_size, 1) * args.batch_size
    reject(
        (
            args.moco_k % args.batch_size,
            f"--batch-size {args.batch_size} does not divide --moco-k {args.moco_k}, but whole batches are "
            f"enqueued; try --moco-k {near}",
        ),
        (
            args.moco_k == 0 and args.batch_size == 1,
            "--moco-k 0 takes the negatives from the batch: raise --batch-size 1",
        ),
        (
            num_clips < args.batch_size,
            f"the training split has {num_clips} clips, fewer than --batch-size {args.batch_size}; lower "
            "--batch-size",
        ),
    )


def queue_note(args: argparse.Namespace, num_clips: int) -> list[str]:
    """Return a line for the log if the queue is longer than an epoch."""
    if args.moco_k <= num_clips:
        return []
    return [
        f"note: the queue ({args.moco_k} keys) is longer than an epoch ({num_clips} clips), so older keys of "
        "the same clip are used as negatives; a smaller --moco-k usually learns better features"
    ]
