"""From flags to a pretraining that can start: flags, model, and an earlier run to go on from."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Callable

import torch

from dataset.augment import Augmentation
from dataset.clips import open_clips
from moco.model import MoCo
from options import flags
from options.errors import UserError
from options.representations import join_representations

from .checkpoint import checkpoints_in, is_ours, load_checkpoint
from .device import describe, parallel, pick_device
from .pretrain import Run, pretrain
from .pretrained import build, complete_sizes
from .randomness import WEIGHTS, choose_seed, seed_globally

# What a resumed run must share with the run it goes on from, and the flag that says it.
RESUME_FLAGS = {
    "contrast": "this script", "representations": "--skeleton-representation", "dataset": "--pre-dataset",
    "protocol": "--protocol", "batch_size": "--batch-size", "moco_k": "--moco-k",
    "moco_dim": "--moco-dim", "mlp": "--mlp",
}


def parse_pretraining_flags(
    documentation: str, representation_help: str, representation: str
) -> argparse.Namespace:
    """The flags of both pretraining scripts; they differ in the representations they take."""
    parser = flags.Parser(documentation)
    flags.add_data_flags(parser, "--pre-dataset")
    flags.add_contrast_flags(parser, representation_help, representation)
    flags.add_augmentation_flags(parser)
    flags.add_size_flags(parser)
    flags.add_optimisation_flags(parser, epochs=None, lr=0.01, schedule=None, weight_decay=1e-4)
    flags.add_checkpoint_flags(parser)
    flags.add_run_flags(parser, print_freq=10, print_help="steps between updates of the loss shown")
    return parser.parse_args()


def default_workers(device: torch.device) -> int:
    """Threads beside the step pay on a GPU; on the CPU they would take its cores."""
    return 0 if device.type == "cpu" else 2


def find_resume(resume: str, folder: Path) -> Path:
    """The checkpoint that ``--resume`` means; ``auto`` is the newest of the folder."""
    if resume != "auto":
        return Path(resume)
    found = checkpoints_in(folder)
    if not found:
        raise UserError(f"--resume auto: {folder} has no checkpoint; leave --resume out to begin anew")
    return found[-1]


def resume_run(run: Run, path: Path, seed_given: int | None) -> None:
    """Put ``run`` where the checkpoint stands; refuse one of another kind of run."""
    checkpoint = load_checkpoint(path)
    if not is_ours(checkpoint) or checkpoint.get("kind") != "pretraining":
        raise UserError(f"--resume {path}: not a checkpoint of this program's pretraining")
    for name, flag in RESUME_FLAGS.items():
        if checkpoint[name] != run.describe[name]:
            raise UserError(
                f"{path} was trained with {name} {checkpoint[name]}, {flag} says "
                f"{run.describe[name]}: give the same, or begin anew in another --checkpoint-path"
            )
    for name, value in checkpoint["sizes"].items():
        if value != run.describe["sizes"][name]:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{path} was trained with {flag} {value}: give the same")
    if seed_given is not None and seed_given != checkpoint["seed"]:
        raise UserError(f"{path} was trained with --seed {checkpoint['seed']}: give the same or none")
    run.restore(checkpoint)
    print(f"resumed {path}: epoch {run.epoch}, step {run.step}")


def checkpoint_folder(args: argparse.Namespace, contrast: str, name: str) -> Path:
    """``--checkpoint-path`` or its default; refused where an earlier run would be written over."""
    folder = Path(
        args.checkpoint_path or f"checkpoints/{args.dataset}_{args.protocol}/{contrast}_{name}"
    )
    if args.resume is None and checkpoints_in(folder):
        raise UserError(
            f"{folder} holds checkpoints of an earlier run: --resume auto goes on from them, another "
            "--checkpoint-path leaves them alone"
        )
    return folder


def new_run(
    args: argparse.Namespace, contrast: str, representations: tuple[str, ...],
    pairs: list[tuple[str, str]], sizes: dict, device: torch.device, seed: int,
) -> Run:
    """Model and optimizer at the start of a run."""
    seed_globally(seed, WEIGHTS)
    model = MoCo(
        representations, partial(build, **sizes), pairs,
        args.moco_dim, args.moco_k, args.moco_m, args.moco_t, args.mlp,
    ).to(device)
    optimizer = torch.optim.SGD(
        model.encoders.query.parameters(), args.lr, momentum=args.momentum,
        weight_decay=args.weight_decay,
    )
    description = {
        "kind": "pretraining", "contrast": contrast, "representations": list(representations),
        "sizes": sizes, "flags": vars(args),
        **{name: getattr(args, name) for name in RESUME_FLAGS if hasattr(args, name)},
    }
    encode = parallel(model.encoders, device, args.gpu)
    return Run(model, encode, optimizer, description, seed, epoch=args.start_epoch)


def run_pretraining(
    args: argparse.Namespace, contrast: str, representations: tuple[str, ...], pairs_of: Callable
) -> int:
    """Pretrain as ``args`` say; ``pairs_of(representations)`` are the (query, key) pairs.

    Nothing is written before every flag is known to be good. Returns the exit code.
    """
    sizes = complete_sizes(flags.sizes_given(args))
    augmentation = Augmentation(
        tuple(args.augmentations), args.min_crop_ratio, args.min_crop_frames, args.jitter_joints,
        args.jitter_zero_prob, sizes["num_frames"],
    )
    device = pick_device(args.gpu)
    args.workers = default_workers(device) if args.workers is None else args.workers
    clips = open_clips(args.data_root, args.dataset, args.protocol, "train")
    default_lines = flags.fill_pretraining_defaults(args)
    flags.check_epochs(args)
    flags.check_queue(args, len(clips))
    name = join_representations(representations)
    folder = checkpoint_folder(args, contrast, name)
    args.checkpoint_path = str(folder)
    resume_from = find_resume(args.resume, folder) if args.resume else None
    seed = choose_seed(args.seed) if resume_from is None else 0

    run = new_run(args, contrast, representations, pairs_of(representations), sizes, device, seed)
    if resume_from is not None:
        resume_run(run, resume_from, args.seed)
    print(
        f"{contrast}-skeleton contrast of {name} on {args.dataset} {args.protocol}: {len(clips)} clips "
        f"from {clips.source}, {describe(device, args.gpu)}"
    )
    for line in default_lines:
        print(line)
    if args.moco_k > len(clips):
        print(
            f"note: the queue ({args.moco_k} keys) is longer than an epoch ({len(clips)} clips), so a "
            "clip's own earlier keys are among its negatives; a smaller --moco-k learns better"
        )
    return pretrain(run, clips, augmentation, args, device)
