"""From flags to a pretraining that can start: flags, model, and an earlier run to go on from."""

from __future__ import annotations

import argparse
import hashlib
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Callable

import torch
from torch import nn

from dataset.augment import Augmentation
from dataset.clips import ClipSet, open_clips
from moco.model import MoCo
from options import flags
from options.errors import UserError
from options.representations import join_representations

from .checkpoint import checkpoints_in, load_checkpoint, newest_checkpoint, putting_to_use
from .descent import Descent
from .device import (
    default_workers, describe, parallel, pick_device, place_clips, uses_data_parallel,
)
from .distributed import Group, check_shares, process_group
from .lock import sole_use
from .pretrain import Run, pretrain
from .precision import check_amp, in_precision, use_tf32
from .pretrained import build, complete_sizes, refuse_contradictions
from .randomness import WEIGHTS, choose_seed, seed_globally

# Flags that a resumed run may change; every other one decides what is trained.
FREE_FLAGS = {
    "epochs", "start_epoch", "workers", "gpu", "seed", "print_freq", "save_freq", "resume",
    "save_minutes", "data_device", "compile", "tf32", "data_root", "checkpoint_path",
    *flags.SIZE_FLAGS, "graph_encoder",
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


def find_resume(resume: str, folder: Path) -> tuple[Path, dict] | None:
    """The checkpoint that ``--resume`` means, and its content; ``auto``: the folder's newest.

    None where ``auto`` finds no checkpoint at all, so that one command line begins a run and goes on
    with it; checkpoints of which none can be read are refused, not written over.
    """
    if resume == "auto":
        if not (there := checkpoints_in(folder)):
            print(f"--resume auto: no checkpoint in {folder} yet, so this run begins anew")
            return None
        if (newest := newest_checkpoint(folder)) is None:
            raise UserError(
                f"--resume auto: {folder} has {len(there)} checkpoints and none can be read; move them "
                "away to begin anew"
            )
        path, checkpoint = newest
    else:
        path = Path(resume)
        checkpoint = load_checkpoint(path)
        if path.resolve().parent != folder.resolve() and checkpoints_in(folder):
            raise UserError(
                f"--resume {path}: {folder} holds checkpoints of another run; name another "
                "--checkpoint-path"
            )
    if checkpoint.get("kind") != "pretraining":
        raise UserError(f"--resume {path}: not a checkpoint of this program's pretraining")
    return path, checkpoint


def digest(clips: ClipSet) -> str:
    """Of the list of clips: what a run draws is a matter of positions in it."""
    lines = [f"{name} {count}" for name, count in zip(clips.names, clips.num_frames.tolist())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def refuse_other_run(
    path: Path, checkpoint: dict, contrast: str, args: argparse.Namespace, clips: ClipSet
) -> None:
    """A resumed run must be the run of the checkpoint; name the first flag that says otherwise."""
    if checkpoint["contrast"] != contrast:
        raise UserError(f"{path} is of {checkpoint['contrast']}-skeleton pretraining: use that script")
    refuse_contradictions(checkpoint["sizes"], flags.sizes_given(args), str(path))
    stored = {**checkpoint["flags"], "seed": checkpoint["seed"]}
    free = FREE_FLAGS - ({"seed"} if args.seed is not None else set())
    for name, value in stored.items():
        if name not in free and getattr(args, name) != value:
            flag = "--" + {"dataset": "pre-dataset"}.get(name, name.replace("_", "-"))
            raise UserError(
                f"{flag} is {getattr(args, name)}, {path} was trained with {value}: give the same, or "
                "begin anew in another --checkpoint-path"
            )
    if checkpoint["clips_sha256"] != digest(clips):
        raise UserError(
            f"{clips.source} has {len(clips)} training clips that are not those {path} was trained on: "
            "give the --data-root it had, or begin anew in another --checkpoint-path"
        )
    if checkpoint["epoch"] > args.epochs:
        raise UserError(
            f"{path} has {checkpoint['epoch']} epochs behind it, more than --epochs {args.epochs}"
        )


def checkpoint_folder(args: argparse.Namespace, contrast: str, name: str) -> Path:
    """``--checkpoint-path`` or its default; refused where an earlier run would be written over."""
    folder = Path(
        args.checkpoint_path or f"checkpoints/{args.dataset}_{args.protocol}/{contrast}_{name}"
    )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--checkpoint-path {folder} is a file; name a folder")
    if args.resume is None and checkpoints_in(folder):
        raise UserError(
            f"{folder} holds checkpoints of an earlier run: --resume auto goes on from them, another "
            "--checkpoint-path leaves them alone"
        )
    return folder


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
    args: argparse.Namespace, contrast: str, representations: tuple[str, ...], pairs_of: Callable
) -> int:
    """Pretrain as ``args`` say; ``pairs_of(representations)`` are the (query, key) pairs.

    Nothing is written before every flag is known to be good. Returns the exit code.
    """
    args.skeleton_representation = join_representations(representations)
    with process_group() as group:
        return pretrain_in(group, args, contrast, representations, pairs_of(representations))


def pretrain_in(
    group: Group, args: argparse.Namespace, contrast: str, representations: tuple[str, ...],
    pairs: list[tuple[str, str]],
) -> int:
    """Pretrain as one of the processes of ``group``."""
    device = pick_device(args.gpu)
    check_modes(args, device, group)
    use_tf32(args.tf32 == "on")
    clips = open_clips(args.data_root, args.dataset, args.protocol, "train")
    default_lines = flags.fill_pretraining_defaults(args)
    flags.check_epochs(args)
    flags.check_queue(args, len(clips))
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
    for line in [*default_lines, *flags.queue_note(args, len(clips))]:
        print(line)
    with sole_use(folder, "--checkpoint-path") if group.is_main else nullcontext():
        if checkpoints_in(folder) != found:
            raise UserError(f"another run wrote checkpoints into {folder} just now; start this one again")
        (clips,) = place_clips([clips], args.data_device, device)
        if args.workers is None:
            args.workers = default_workers(clips, device)
        return pretrain(run, clips, augmentation, args, device)
