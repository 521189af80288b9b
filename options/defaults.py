"""Values of flags that were not given, and checks of flags that must agree with each other."""

from __future__ import annotations

import argparse
import math

from facts.datasets import DATASETS, DatasetInfo
from facts.skeletons import Skeleton
from utils.errors import UserError

# Training settings per --mode (paper section 4.2; the linear probe as in the official code).
CLASSIFIER_DEFAULTS: dict[str, dict] = {
    "linear": {"optimizer": "sgd", "lr": 0.1, "epochs": 80, "schedule": [50, 70]},
    "finetune": {"optimizer": "adam", "lr": 1e-4, "epochs": 50, "schedule": [30, 40]},
}
CLASSIFIER_DEFAULTS["supervised"] = CLASSIFIER_DEFAULTS["finetune"]

CHECKPOINTS, MEASUREMENTS = 20, 40  # per run of --steps
JITTERED_SHARE = 0.6  # of the joints; 15 of the 25 of Kinect v2 (Table 8)


def fill_defaults(args: argparse.Namespace, defaults: dict, source: str) -> list[str]:
    """Set the flags in ``defaults`` that were not given; return a line about each for the log."""
    lines = []
    for name, value in defaults.items():
        if getattr(args, name) is None:
            value = [] if name == "schedule" and args.cos else value  # the cosine has no milestones
            setattr(args, name, value)
            shown = " ".join(map(str, value)) or "none" if isinstance(value, list) else value
            lines.append(f"--{name.replace('_', '-')} {shown} (default for {source})")
    return lines


def fill_pretraining_defaults(args: argparse.Namespace, num_clips: int) -> list[str]:
    """Set the flags that depend on the dataset or on ``--steps``; return a line about each for the log."""
    lines = []
    if args.steps is not None:
        if not args.cos and args.schedule is None:
            raise UserError("--steps needs a learning-rate schedule: add --cos or --schedule")
        per_epoch = max(num_clips // args.batch_size, 1)
        args.epochs = math.ceil(args.steps / per_epoch)
        lines.append(f"--epochs {args.epochs} (--steps {args.steps}, {per_epoch} per epoch)")
    info = DATASETS.get(args.dataset)
    source = args.dataset if info else "datasets without an entry in facts/datasets.py"
    info = info or DatasetInfo(args.dataset, 0, ())
    defaults = {"moco_k": info.moco_k, "epochs": info.epochs, "schedule": list(info.schedule)}
    lines += fill_defaults(args, defaults, source)
    for name, number in (("save_freq", CHECKPOINTS), ("monitor_freq", MEASUREMENTS)):
        if getattr(args, name) is None:
            setattr(args, name, 10 if args.steps is None else math.ceil(args.epochs / number))
    return lines


def fill_augmentation_defaults(args: argparse.Namespace, skeleton: Skeleton) -> list[str]:
    """Set the number of jittered joints by the skeleton; return a line about it for the log."""
    return fill_defaults(args, {"jitter_joints": round(JITTERED_SHARE * skeleton.num_joints)}, skeleton.name)


def fill_classifier_defaults(args: argparse.Namespace) -> list[str]:
    """Set optimizer, learning rate, epochs and schedule by ``--mode``; return a line about each."""
    defaults = dict(CLASSIFIER_DEFAULTS[args.mode])
    if (args.optimizer or defaults["optimizer"]) == "sgd":
        defaults["momentum"] = 0.9
    elif args.momentum is not None:
        raise UserError("--momentum applies to SGD, but the optimizer is Adam: omit it")
    return fill_defaults(args, defaults, f"--mode {args.mode}")


def check_mode(args: argparse.Namespace) -> None:
    """Raise ``UserError`` for flags that have no effect with ``--mode`` or without ``--label-fraction``."""
    if args.mode == "supervised":
        if args.pretrained:
            raise UserError("--mode supervised starts from random weights: omit --pretrained")
        args.pretrained = ["random"]
    elif not args.pretrained:
        raise UserError(f"--mode {args.mode} needs --pretrained; only --mode supervised works without it")
    elif args.mode == "finetune" and set(args.pretrained) & {"random", "coordinates"}:
        raise UserError(
            f"--mode finetune needs a pretrained encoder, not --pretrained {args.pretrained[0]}; to train "
            "from random weights, use --mode supervised"
        )
    if args.mode != "linear" and args.cached_crops is not None:
        raise UserError(
            f"--cached-crops needs a frozen encoder, but --mode {args.mode} trains it: omit the flag"
        )
    if args.label_fraction is not None:
        args.label_sampling, args.label_seed = args.label_sampling or "balanced", args.label_seed or 0
    elif args.label_sampling is not None or args.label_seed is not None:
        raise UserError("--label-sampling and --label-seed have no effect without --label-fraction: add it")


def check_epochs(args: argparse.Namespace) -> None:
    """Raise ``UserError`` if ``--start-epoch`` leaves no epoch to train."""
    if args.start_epoch >= args.epochs:
        raise UserError(
            f"--start-epoch {args.start_epoch} leaves no epoch of --epochs {args.epochs} to train; epochs "
            "are counted from 0"
        )


def check_queue(args: argparse.Namespace, num_clips: int) -> None:
    """Raise ``UserError`` if the batch size does not divide the queue, or exceeds the training set."""
    if args.moco_k % args.batch_size:
        near = max(args.moco_k // args.batch_size, 1) * args.batch_size
        raise UserError(
            f"--batch-size {args.batch_size} does not divide --moco-k {args.moco_k}, but whole batches are "
            f"enqueued; try --moco-k {near}"
        )
    if args.moco_k == 0 and args.batch_size == 1:
        raise UserError("--moco-k 0 takes the negatives from the batch: raise --batch-size 1")
    if num_clips < args.batch_size:
        raise UserError(
            f"the training split has {num_clips} clips, fewer than --batch-size {args.batch_size}; "
            "lower --batch-size"
        )


def queue_note(args: argparse.Namespace, num_clips: int) -> list[str]:
    """Return a line for the log if the queue is longer than an epoch."""
    if args.moco_k <= num_clips:
        return []
    return [
        f"note: the queue ({args.moco_k} keys) is longer than an epoch ({num_clips} clips), so older keys of "
        "the same clip are used as negatives; a smaller --moco-k usually learns better features"
    ]
