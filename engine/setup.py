"""From flags to a pretraining that can start: device, clips, model."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from functools import partial
from typing import Callable

import torch
from torch import nn

from dataset.augment import Augmentation
from dataset.clips import ClipSet, open_clips
from moco.model import MoCo
from options import defaults, flags
from options.errors import UserError
from options.representations import join_representations

from .checkpoint import checkpoints_in, putting_to_use
from .descent import Descent
from .device import (
    default_workers, describe, parallel, pick_device, place_clips, uses_data_parallel,
)
from .distributed import Group, check_shares, process_group
from .lock import sole_use
from .pretrain import Run, pretrain
from .precision import check_amp, in_precision, use_tf32
from .pretrained import build, complete_sizes
from .randomness import WEIGHTS, choose_seed, seed_globally
from .resume import checkpoint_folder, digest, find_resume, refuse_other_run


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
    flags.add_process_flags(parser)
    flags.add_run_flags(parser, print_freq=10, print_help="steps between updates of the loss shown")
    return parser.parse_args()


def check_modes(args: argparse.Namespace, device: torch.device, group: Group) -> None:
    """Refuse ways to run that do not go together."""
    check_amp(args.amp, device)
    check_shares(group, args.batch_size)
    if group.size > 1 and args.gpu is not None:
        raise UserError("--gpu: torchrun gives every process its own GPU; leave --gpu out")
    if args.compile and group.size == 1 and uses_data_parallel(device, args.gpu):
        raise UserError(
            "--compile does not go with several GPUs in one process: start with torchrun, or add --gpu 0"
        )
    if args.sync_bn and (group.size == 1 or device.type == "cpu"):
        raise UserError("--sync-bn is for several processes on GPUs: start with torchrun")


def compile_encoders(model: MoCo) -> None:
    """Compile what gains by it: not the GRU, whose recurrence is one call of a library already."""
    for encoders in (model.encoders.query, model.encoders.key):
        for name, encoder in encoders.items():
            if name != "seq-based":
                encoder.compile(dynamic=False)


def new_run(
    args: argparse.Namespace, contrast: str, representations: tuple[str, ...],
    pairs: list[tuple[str, str]], sizes: dict, device: torch.device, clips: ClipSet, group: Group,
) -> Run:
    """Model and optimizer at the start of a run."""
    seed_globally(args.seed, WEIGHTS)
    model = MoCo(
        representations, partial(build, **sizes), pairs,
        args.moco_dim, args.moco_k, args.moco_m, args.moco_t, args.mlp,
    )
    if args.sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device)
    if args.compile:
        compile_encoders(model)
    optimizer = torch.optim.SGD(
        model.encoders.query.parameters(), args.lr, momentum=args.momentum,
        weight_decay=args.weight_decay, fused=True,
    )
    description = {
        "kind": "pretraining", "contrast": contrast, "representations": list(representations),
        "sizes": sizes, "flags": vars(args), "dataset": args.dataset, "clips_sha256": digest(clips),
    }
    encode = in_precision(parallel(model.encoders, device, args.gpu, group), args.amp, device)
    descent = Descent(optimizer, args.amp, device)
    return Run(model, encode, descent, description, args.seed, group, epoch=args.start_epoch)


def run_pretraining(
    args: argparse.Namespace, contrast: str, representations: tuple[str, ...], pairs_of: Callable,
    show: Callable,
) -> int:
    """Pretrain as ``args`` say; ``pairs_of(representations)`` are the (query, key) pairs.

    ``show(writer, clips, augmentation, seed)`` puts a sample of views into TensorBoard at the start.

    Nothing is written before every flag is known to be good. Returns the exit code.
    """
    args.skeleton_representation = join_representations(representations)
    with process_group() as group:
        return pretrain_in(group, args, contrast, representations, pairs_of(representations), show)


def pretrain_in(
    group: Group, args: argparse.Namespace, contrast: str, representations: tuple[str, ...],
    pairs: list[tuple[str, str]], show: Callable,
) -> int:
    """Pretrain as one of the processes of ``group``."""
    device = pick_device(args.gpu)
    check_modes(args, device, group)
    use_tf32(args.tf32 == "on")
    clips = open_clips(args.data_root, args.dataset, args.protocol, "train")
    default_lines = defaults.fill_pretraining_defaults(args)
    defaults.check_epochs(args)
    defaults.check_queue(args, len(clips))
    folder = checkpoint_folder(args, contrast, args.skeleton_representation)
    args.checkpoint_path = str(folder)
    found = checkpoints_in(folder)
    resumed = find_resume(args.resume, folder) if args.resume else None
    if resumed:
        path, checkpoint = resumed
        with putting_to_use(path):
            refuse_other_run(path, checkpoint, contrast, args, clips)
            sizes, seed = complete_sizes(checkpoint["sizes"]), int(checkpoint["seed"])
    else:
        sizes, seed = complete_sizes(flags.sizes_given(args)), None
    augmentation = Augmentation(
        tuple(args.augmentations), args.min_crop_ratio, args.min_crop_frames, args.jitter_joints,
        args.jitter_zero_prob, sizes["num_frames"],
    )
    args.seed = group.first(choose_seed(args.seed)) if seed is None else seed
    run = new_run(args, contrast, representations, pairs, sizes, device, clips, group)
    if resumed:
        with putting_to_use(path):
            run.restore(checkpoint)
        print(f"resumed {path}: epoch {run.epoch}, step {run.step}")
    print(
        f"{contrast}-skeleton contrast of {args.skeleton_representation} on {args.dataset} "
        f"{args.protocol}: {len(clips)} clips from {clips.source}, {describe(device, args.gpu, group)}"
    )
    for line in [*default_lines, *defaults.queue_note(args, len(clips))]:
        print(line)
    with sole_use(folder, "--checkpoint-path") if group.is_main else nullcontext():
        if checkpoints_in(folder) != found:
            raise UserError(f"another run wrote checkpoints into {folder} just now; start this one again")
        (clips,) = place_clips([clips], args.data_device, device)
        if args.workers is None:
            args.workers = default_workers(clips, device)
        return pretrain(run, clips, augmentation, args, device, show)
