"""Going on with an earlier pretraining: which checkpoint, and whether it is of the same run."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from dataset.clips import ClipSet
from options import flags
from options.errors import UserError

from .checkpoint import checkpoints_in, load_checkpoint, newest_checkpoint
from .pretrained import refuse_contradictions

# Flags that a resumed run may change; every other one decides what is trained.
FREE_FLAGS = {
    "epochs", "start_epoch", "workers", "gpu", "seed", "print_freq", "save_freq", "resume",
    "save_minutes", "data_device", "compile", "tf32", "data_root", "checkpoint_path",
    *flags.SIZE_FLAGS, "graph_encoder",
}


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
