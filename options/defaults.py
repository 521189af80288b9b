"""What stands in for flags that were left out, and flags that do not go together."""

from __future__ import annotations

import argparse

from .datasets import DATASETS, DatasetInfo
from .errors import UserError

# --mode -> what the paper trained it with (section 4.2; the released program for the linear probe)
CLASSIFIER_DEFAULTS = {
    "linear": {"optimizer": "sgd", "lr": 0.1, "epochs": 80, "schedule": [50, 70]},
    "finetune": {"optimizer": "adam", "lr": 1e-4, "epochs": 50, "schedule": [30, 40]},
}
CLASSIFIER_DEFAULTS["supervised"] = CLASSIFIER_DEFAULTS["finetune"]


def fill_pretraining_defaults(args: argparse.Namespace) -> list[str]:
    """Set what was left to the dataset; returns lines that say which values came from where."""
    info = DATASETS.get(args.dataset)
    source = args.dataset if info else "no entry for this dataset"
    info = info or DatasetInfo(args.dataset, 0, ())
    lines = []
    defaults = {"moco_k": info.moco_k, "epochs": info.epochs, "schedule": list(info.schedule)}
    for name, value in defaults.items():
        if getattr(args, name) is None:
            value = [] if name == "schedule" and args.cos else value  # the cosine has no drops
            setattr(args, name, value)
            lines.append(default_line(name, value, source))
    return lines


def check_mode(args: argparse.Namespace) -> None:
    """Refuse flags that ``--mode`` or the lack of ``--label-fraction`` leaves without a meaning."""
    if args.mode == "supervised":
        if args.pretrained:
            raise UserError("--mode supervised begins with random weights: leave --pretrained out")
        args.pretrained = ["random"]
    elif not args.pretrained:
        raise UserError(f"--mode {args.mode} needs --pretrained; only --mode supervised goes without")
    elif args.mode == "finetune" and set(args.pretrained) & {"random", "coordinates"}:
        raise UserError(
            f"--mode finetune --pretrained {args.pretrained[0]}: there is nothing pretrained to train "
            "on; --mode supervised begins with random weights"
        )
    if args.mode != "linear" and args.cached_crops is not None:
        raise UserError(f"--cached-crops is of frozen features; --mode {args.mode} trains the encoder")
    if args.label_fraction is not None:
        args.label_sampling, args.label_seed = args.label_sampling or "balanced", args.label_seed or 0
    elif args.label_sampling is not None or args.label_seed is not None:
        raise UserError(
            "--label-sampling and --label-seed choose what --label-fraction keeps: give it too"
        )


def fill_classifier_defaults(args: argparse.Namespace) -> list[str]:
    """Set what was left to ``--mode``; returns lines that say which values came from there."""
    defaults = dict(CLASSIFIER_DEFAULTS[args.mode])
    if (args.optimizer or defaults["optimizer"]) == "sgd":
        defaults["momentum"] = 0.9
    elif args.momentum is not None:
        raise UserError("--momentum is of SGD, and the optimizer here is Adam: leave it out")
    lines = []
    for name, value in defaults.items():
        if getattr(args, name) is None:
            value = [] if name == "schedule" and args.cos else value  # the cosine has no drops
            setattr(args, name, value)
            lines.append(default_line(name, value, f"--mode {args.mode}"))
    return lines


def default_line(name: str, value: object, source: str) -> str:
    shown = " ".join(map(str, value)) if isinstance(value, list) else value
    return f"--{name.replace('_', '-')} {shown or 'none'} (default, {source})"


def check_epochs(args: argparse.Namespace) -> None:
    if args.start_epoch >= args.epochs:
        raise UserError(
            f"--start-epoch {args.start_epoch} leaves nothing of --epochs {args.epochs}; epochs are "
            "counted from 0"
        )


def check_queue(args: argparse.Namespace, num_clips: int) -> None:
    """Refuse a batch that does not divide the queue, or of which there is not one."""
    if args.moco_k % args.batch_size:
        near = max(args.moco_k // args.batch_size, 1) * args.batch_size
        raise UserError(
            f"--batch-size {args.batch_size} does not divide --moco-k {args.moco_k}: the queue takes "
            f"whole batches; try --moco-k {near}"
        )
    if num_clips < args.batch_size:
        raise UserError(
            f"the training split has {num_clips} clips, fewer than --batch-size {args.batch_size}; "
            "lower --batch-size"
        )


def queue_note(args: argparse.Namespace, num_clips: int) -> list[str]:
    """A line where the queue is so long that it holds a clip's own earlier keys."""
    if args.moco_k <= num_clips:
        return []
    return [
        f"note: the queue ({args.moco_k} keys) is longer than an epoch ({num_clips} clips), so a clip's "
        "own earlier keys are among its negatives; a smaller --moco-k learns better"
    ]
