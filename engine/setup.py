"""Turn command-line flags into a pretraining run that is ready to start or to resume."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dataset.augment import augmentation_names
from dataset.clips import ClipSet, open_clips
from dataset.views import AugmentationSettings, pretraining_view
from moco.model import MoCo
from models.registry import (
    build_encoder,
    complete_sizes,
    join_representations,
    registry_entry,
    size_flags,
)
from options import defaults, flags
from options.parser import Parser, spelled
from utils.errors import UserError
from utils.files import check_output_folder, exclusive_folder

from .checkpoint import checkpoint_errors, checkpoints_in, load_checkpoint, newest_checkpoint
from .device import (
    check_amp,
    default_workers,
    describe,
    in_precision,
    parallel,
    pick_device,
    place_clips,
    use_tf32,
    uses_data_parallel,
)
from .distributed import Group, check_shards, process_group
from .encoders import check_skeleton, contrast_title, stored_skeleton
from .optimization import GuardedOptimizer, make_sgd
from .pretrain import Pretraining, pretrain
from .randomness import WEIGHTS, choose_seed, seed_globally

# Flags that a resumed run may change; all others determine what is trained.
FREE_FLAGS = {
    "epochs",
    "steps",
    "start_epoch",
    "workers",
    "gpu",
    "seed",
    "stream",  # part of skeleton_representation
    "print_freq",
    "save_freq",
    "resume",
    "save_minutes",
    "monitor_freq",
    "monitor_knn",
    "data_device",
    "compile",
    "tf32",
    "data_root",
    "checkpoint_path",
    *size_flags(),
}

# Flags that older checkpoints do not store, with the values that they were trained with.
ADDED_FLAGS: dict[str, dict] = {"inter": {"pairs": "inter"}}


def check_contradictions(stored: dict, given: dict, path: str) -> None:
    """Raise ``UserError`` if a size flag in ``given`` differs from the sizes stored in a checkpoint."""
    sizes = complete_sizes(stored)
    for name, value in given.items():
        if value is not None and value != sizes[name]:
            raise UserError(f"{spelled(name, value)} contradicts {path}, trained with {sizes[name]}; omit it")


SAMPLED_CLIPS = 32  # whose coordinates are compared when a run resumes


def parse_pretraining_flags(
    documentation: str, representation_help: str, representation: str, pairs: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse the flags of both pretraining scripts, which differ in representations and ``--pairs``."""
    parser = Parser(documentation, presets=True)
    flags.add_data_flags(parser, "--pre-dataset")
    flags.add_contrast_flags(parser, representation_help, representation, pairs)
    flags.add_augmentation_flags(parser, augmentation_names())
    flags.add_size_flags(parser, size_flags())
    flags.add_optimization_flags(parser, epochs=None, lr=0.01, schedule=None, weight_decay=1e-4)
    flags.add_steps_flag(parser)
    flags.add_checkpoint_flags(parser)
    flags.add_monitor_flags(parser)
    flags.add_process_flags(parser)
    flags.add_run_flags(parser, print_freq=10, print_help="steps between updates of the displayed loss")
    return parser.parse_args()


@dataclass(frozen=True)
class Contrast:
    """What a pretraining contrasts.

    Args:
        name: ``intra`` or ``inter``.
        representations: names, in the registry's order.
        pairs: (query, key) names.
    """

    name: str
    representations: tuple[str, ...]
    pairs: list[tuple[str, str]]


def run_pretraining(args: argparse.Namespace, contrast: Contrast, log_views: Callable) -> int:
    """Pretrain with ``args``; all flags are checked before anything is written.

    Args:
        args: from ``parse_pretraining_flags``.
        contrast: what to contrast.
        log_views: ``log_views(log, clips, view, seed)`` logs a sample of augmented views.

    Returns:
        The exit code.
    """
    args.skeleton_representation = join_representations(contrast.representations)
    with process_group() as group:
        folder = checkpoint_folder(args, contrast.name, args.skeleton_representation)
        args.checkpoint_path = str(folder)
        found = checkpoints_in(folder)
        run = prepare(args, contrast, group)
        with exclusive_folder(folder, "--checkpoint-path") if group.is_main else nullcontext():
            if checkpoints_in(folder) != found:
                raise UserError(f"another run has just written checkpoints to {folder}; start this one again")
            (run.clips,) = place_clips([run.clips], args.data_device, run.device)
            if args.workers is None:
                args.workers = default_workers(run.clips, run.device)
            return pretrain(run, args, log_views)


def prepare(args: argparse.Namespace, contrast: Contrast, group: Group) -> Pretraining:
    """Build a new or resumed run; fills in the defaults in ``args``."""
    device = pick_device(args.gpu)
    check_modes(args, device, group)
    use_tf32(args.tf32 == "on")
    clips = open_clips(args.data_root, args.dataset, args.protocol, "train")
    default_lines = defaults.fill_pretraining_defaults(args, len(clips))
    default_lines += defaults.fill_augmentation_defaults(args, clips.skeleton)
    defaults.check_epochs(args)
    defaults.check_queue(args, len(clips))
    resumed = find_resume(args.resume, Path(args.checkpoint_path)) if args.resume else None
    if resumed:
        path, checkpoint = resumed
        with checkpoint_errors(path):
            check_same_run(path, checkpoint, contrast.name, args, clips)
            sizes, args.seed = complete_sizes(checkpoint["sizes"]), int(checkpoint["seed"])
    else:
        sizes = complete_sizes(flags.given_sizes(args, size_flags()))
        args.seed = group.first(choose_seed(args.seed))
    run = build_run(args, contrast, sizes, clips, device, group)
    if resumed:
        with checkpoint_errors(path):
            run.restore(checkpoint)
        print(f"resumed {path}: epoch {run.epoch}, step {run.step}")
    print(
        f"{contrast_title(contrast.name, vars(args))} contrast of {args.skeleton_representation} on "
        f"{args.dataset} {args.protocol}: {len(clips)} clips from {clips.source}, "
        f"{describe(device, args.gpu, group)}; {'MLP' if args.mlp else 'linear'} head, embedding dimension "
        f"{args.moco_dim}"
    )
    for line in [*default_lines, *defaults.queue_note(args, len(clips))]:
        print(line)
    return run


def build_run(
    args: argparse.Namespace,
    contrast: Contrast,
    sizes: dict[str, Any],
    clips: ClipSet,
    device: torch.device,
    group: Group,
) -> Pretraining:
    """Build a run at its first step: model, optimizer and view; ``sizes`` are all encoder sizes."""
    vars(args).update(sizes)  # the configuration that is logged
    description = {
        "kind": "pretraining",
        "contrast": contrast.name,
        "representations": list(contrast.representations),
        "sizes": sizes,
        "flags": vars(args),
        "dataset": args.dataset,
        "skeleton": clips.skeleton.to_dict(),
        "normalized": clips.normalized,
        "clips_sha256": clips_digest(clips),
        "coordinate_sizes": coordinate_sizes(clips),
    }
    model = build_model(args, contrast, partial(build_encoder, skeleton=clips.skeleton, **sizes), device)
    # The key encoders are not optimized; they follow by their momentum update.
    sgd = make_sgd(model.encoders.query.parameters(), args.lr, args.momentum, args.weight_decay)
    return Pretraining(
        model=model,
        encode=parallel(in_precision(model.encoders, args.amp, device), device, args.gpu, group),
        optimizer=GuardedOptimizer(sgd, args.amp, device),
        clips=clips,
        view=pretraining_view(AugmentationSettings.from_flags(args), sizes["num_frames"], clips.skeleton),
        description=description,
        seed=args.seed,
        device=device,
        group=group,
        epoch=args.start_epoch,
    )


def build_model(
    args: argparse.Namespace,
    contrast: Contrast,
    build: Callable[[str, int], nn.Module],
    device: torch.device,
) -> MoCo:
    """Build the contrastive model on ``device``, initialized; ``build(name, dim)`` builds an encoder."""
    seed_globally(args.seed, WEIGHTS)
    model = MoCo(
        contrast.representations,
        build,
        contrast.pairs,
        args.moco_dim,
        args.moco_k,
        args.moco_m,
        args.moco_t,
        args.mlp,
    )
    if args.sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device)
    if args.compile:
        compile_encoders(model)
    return model


def compile_encoders(model: MoCo) -> None:
    """Compile the encoders whose registry entry allows it."""
    for encoders in (model.encoders.query, model.encoders.key):
        for name, encoder in encoders.items():
            if registry_entry(name).compile:
                encoder.compile(dynamic=False)


def check_modes(args: argparse.Namespace, device: torch.device, group: Group) -> None:
    """Raise ``UserError`` for flags that cannot be combined or do not work on this device."""
    check_amp(args.amp, device)
    check_shards(group, args.batch_size)
    if group.size > 1 and args.gpu is not None:
        raise UserError("--gpu: torchrun assigns a GPU to every process; omit --gpu")
    if args.compile and group.size == 1 and uses_data_parallel(device, args.gpu):
        raise UserError(
            "--compile does not support several GPUs in one process: start with torchrun or add --gpu 0"
        )
    if args.sync_bn and (group.size == 1 or device.type == "cpu"):
        raise UserError("--sync-bn needs several processes on GPUs: start with torchrun")


def checkpoint_folder(args: argparse.Namespace, contrast: str, name: str) -> Path:
    """Return ``--checkpoint-path`` or its default; raises ``UserError`` if it contains an earlier run."""
    folder = Path(
        args.checkpoint_path
        or f"checkpoints/{args.dataset}_{args.protocol}/{contrast}_{name.replace(':', '-')}"
    )
    check_output_folder(folder, "--checkpoint-path")
    if args.resume is None and checkpoints_in(folder):
        raise UserError(
            f"{folder} contains checkpoints of an earlier run: add --resume auto to continue it, or "
            "choose another --checkpoint-path"
        )
    return folder


def find_resume(resume: str, folder: Path) -> tuple[Path, dict] | None:
    """Return the path and the content of the checkpoint to resume from.

    ``auto`` selects the most advanced checkpoint in ``folder``; None if there is none, so that the
    same command starts a run and resumes it.

    Raises:
        UserError: no checkpoint is readable, or the checkpoint belongs to another kind of run.
    """
    if resume == "auto":
        existing = checkpoints_in(folder)
        if not existing:
            print(f"--resume auto: no checkpoint in {folder} yet; starting a new run")
            return None
        newest = newest_checkpoint(folder)
        if newest is None:
            raise UserError(
                f"--resume auto: none of the {len(existing)} checkpoints in {folder} can be read; move "
                "them away to start over"
            )
        path, checkpoint = newest
    else:
        path = Path(resume)
        checkpoint = load_checkpoint(path)
        if path.resolve().parent != folder.resolve() and checkpoints_in(folder):
            raise UserError(
                f"--resume {path}: {folder} contains checkpoints of another run; choose another "
                "--checkpoint-path"
            )
    if checkpoint.get("kind") != "pretraining":
        raise UserError(f"--resume {path}: not a pretraining checkpoint of this code base")
    return path, checkpoint


def clips_digest(clips: ClipSet) -> str:
    """Return a digest of the list of clips; sampling depends on the positions in it."""
    lines = [f"{name} {count}" for name, count in zip(clips.names, clips.num_frames.tolist())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def coordinate_sizes(clips: ClipSet) -> list[float]:
    """Return the mean absolute coordinates of ``SAMPLED_CLIPS`` clips, evenly spaced in the list.

    They reveal clips of another preparation or unit, but not rounding errors, as a digest would.
    """
    index = torch.linspace(0, len(clips) - 1, min(len(clips), SAMPLED_CLIPS)).long()
    return [
        clips.gather(i[None], torch.arange(int(clips.num_frames[i]))[None]).abs().mean().item() for i in index
    ]


def check_same_run(
    path: Path, checkpoint: dict, contrast: str, args: argparse.Namespace, clips: ClipSet
) -> None:
    """Raise ``UserError`` if flags or clips differ from those of the run that is resumed."""
    if checkpoint["contrast"] != contrast:
        raise UserError(
            f"{path} is an {checkpoint['contrast']}-skeleton pretraining checkpoint: resume it with "
            f"main_moco_{checkpoint['contrast']}_skeleton.py"
        )
    check_contradictions(checkpoint["sizes"], flags.given_sizes(args, size_flags()), str(path))
    check_skeleton(stored_skeleton(checkpoint, str(path)), str(path), clips.skeleton)
    stored = {**ADDED_FLAGS.get(contrast, {}), **checkpoint["flags"], "seed": checkpoint["seed"]}
    free = FREE_FLAGS - ({"seed"} if args.seed is not None else set())
    for name, value in stored.items():
        if name in free:
            continue
        trained_with = f"{path} was trained with {spelled(name, value, 'pre-dataset')}"
        if not hasattr(args, name):
            raise UserError(
                f"{trained_with}, a flag that this version does not have: use the version that wrote it"
            )
        if getattr(args, name) != value:
            raise UserError(
                f"{spelled(name, getattr(args, name), 'pre-dataset')}, but {trained_with}: use the "
                "same value, or choose another --checkpoint-path to start over"
            )
    sizes = coordinate_sizes(clips)
    trained = checkpoint.get("coordinate_sizes", sizes)  # older checkpoints have none
    if checkpoint["clips_sha256"] != clips_digest(clips) or not np.allclose(trained, sizes, rtol=1e-3):
        raise UserError(
            f"the {len(clips)} training clips in {clips.source} are not those that {path} was trained "
            "on: use the same --data-root, or choose another --checkpoint-path to start over"
        )
    if checkpoint["epoch"] > args.epochs:
        raise UserError(
            f"{path} has finished {checkpoint['epoch']} epochs, more than the {args.epochs} of this "
            "run; raise --epochs or --steps"
        )
