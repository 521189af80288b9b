"""From flags to a pretraining that can start: flags, model, and an earlier run to go on from."""

from __future__ import annotations

import argparse
import hashlib
from functools import partial
from pathlib import Path
from typing import Callable

import torch

from dataset.augment import Augmentation
from dataset.clips import ClipSet, open_clips
from moco.model import MoCo
from options import flags
from options.errors import UserError
from options.representations import join_representations

from .checkpoint import checkpoints_in, load_checkpoint, newest_checkpoint, putting_to_use
from .device import describe, parallel, pick_device
from .lock import sole_use
from .pretrain import Run, pretrain
from .pretrained import build, complete_sizes, refuse_contradictions
from .randomness import WEIGHTS, choose_seed, seed_globally

# Flags that a resumed run may change; every other one decides what is trained.
FREE_FLAGS = {
    "epochs", "start_epoch", "workers", "gpu", "seed", "print_freq", "save_freq", "resume",
    "save_minutes", "data_root", "checkpoint_path", *flags.SIZE_FLAGS, "graph_encoder",
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


def new_run(
    args: argparse.Namespace, contrast: str, representations: tuple[str, ...],
    pairs: list[tuple[str, str]], sizes: dict, device: torch.device, clips: ClipSet,
) -> Run:
    """Model and optimizer at the start of a run."""
    seed_globally(args.seed, WEIGHTS)
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
        "sizes": sizes, "flags": vars(args), "dataset": args.dataset, "clips_sha256": digest(clips),
    }
    encode = parallel(model.encoders, device, args.gpu)
    return Run(model, encode, optimizer, description, args.seed, epoch=args.start_epoch)


def run_pretraining(
    args: argparse.Namespace, contrast: str, representations: tuple[str, ...], pairs_of: Callable
) -> int:
    """Pretrain as ``args`` say; ``pairs_of(representations)`` are the (query, key) pairs.

    Nothing is written before every flag is known to be good. Returns the exit code.
    """
    name = args.skeleton_representation = join_representations(representations)
    device = pick_device(args.gpu)
    args.workers = default_workers(device) if args.workers is None else args.workers
    clips = open_clips(args.data_root, args.dataset, args.protocol, "train")
    default_lines = flags.fill_pretraining_defaults(args)
    flags.check_epochs(args)
    flags.check_queue(args, len(clips))
    folder = checkpoint_folder(args, contrast, name)
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
    args.seed = choose_seed(args.seed) if seed is None else seed
    run = new_run(args, contrast, representations, pairs_of(representations), sizes, device, clips)
    if resumed:
        with putting_to_use(path):
            run.restore(checkpoint)
        print(f"resumed {path}: epoch {run.epoch}, step {run.step}")
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
    with sole_use(folder, "--checkpoint-path"):
        if checkpoints_in(folder) != found:
            raise UserError(f"another run wrote checkpoints into {folder} just now; start this one again")
        return pretrain(run, clips, augmentation, args, device)
