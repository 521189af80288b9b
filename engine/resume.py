"""Resuming a pretraining: which checkpoint, and whether it belongs to the same run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset.clips import ClipSet
from facts.skeletons import Skeleton
from moco.model import MoCo
from options.flags import given_sizes
from options.parser import Flags, spelled
from utils.errors import UserError
from utils.files import check_output_folder, exclusive_folder

from .checkpoint import checkpoint_errors, checkpoints_in, load_checkpoint, newest_checkpoint, position
from .distributed import Group
from .encoders import check_skeleton, last_checkpoints, stored_skeleton, submodule_weights

# Flags that a resumed run may change; all others determine what is trained.
# --stream is part of --skeleton-representation.
FREE_FLAGS = set(
    "epochs steps start_epoch workers gpu print_freq save_freq resume save_minutes monitor_freq monitor_knn "
    "data_device compile tf32 data_root checkpoint_path stream".split()
)
SAMPLED_CLIPS = 32  # whose coordinates are compared when a run resumes


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint of a pretraining to resume from; by default there is none."""

    path: Path | None = None
    content: dict[str, Any] | None = None
    existing: tuple[Path, ...] = ()  # the checkpoints in the folder of the run
    flags: Mapping[str, Any] = field(default_factory=dict)  # of the run that is resumed, with its seed


def resume_point(resume: str | None, folder: Path, group: Group) -> ResumePoint:
    """Return the checkpoint to resume from; raises ``UserError`` unless all processes find the same one."""
    with group.same_outcome():
        point = find_resume_point(resume, folder)
    found = point.content and (point.path and point.path.name, *position(point.content))
    group.agree(found, f"--resume {resume}: {folder} must be the same folder on all machines")
    return point


def find_resume_point(resume: str | None, folder: Path) -> ResumePoint:
    """Return the checkpoint that ``--resume`` selects: of ``auto``, the most advanced one in ``folder``.

    Without a checkpoint in ``folder``, ``auto`` starts a run, so that the same command starts and resumes it.
    Raises ``UserError`` if no checkpoint is readable, it is of another kind, or ``folder`` contains another
    run or cannot be written to.
    """
    check_output_folder(folder, "--checkpoint-path")
    existing = tuple(checkpoints_in(folder))
    if resume is None:
        if existing:
            raise UserError(
                f"{folder} contains checkpoints of an earlier run: add --resume auto to continue it, or "
                "choose another --checkpoint-path"
            )
        return ResumePoint()
    if resume == "auto":
        if not existing:
            print(f"--resume auto: no checkpoint in {folder} yet; starting a new run")
            return ResumePoint()
        newest = newest_checkpoint(folder)
        if newest is None:
            raise UserError(
                f"--resume auto: none of the {len(existing)} checkpoints in {folder} can be read; move "
                "them away to start over"
            )
        path, content = newest
    else:
        path = Path(resume)
        content = load_checkpoint(path)
        if path.resolve().parent != folder.resolve() and existing:
            raise UserError(
                f"--resume {path}: {folder} contains checkpoints of another run; choose another "
                "--checkpoint-path"
            )
    check_kind(content, f"--resume {path}")
    with checkpoint_errors(path):
        content |= {name: int(content[name]) for name in ("seed", "epoch", "step")}
        return ResumePoint(path, content, existing, {**content["flags"], "seed": content["seed"]})


def check_kind(checkpoint: dict[str, Any], given: str) -> None:
    """Raise ``UserError`` unless a checkpoint is one of a pretraining of this code base."""
    if checkpoint.get("kind") != "pretraining":
        raise UserError(f"{given}: not a pretraining checkpoint of this code base")


@contextmanager
def locked_run(folder: Path, point: ResumePoint, group: Group) -> Iterator[None]:
    """Lock the folder of a run; raises ``UserError`` if another run has written to it in the meantime."""
    with ExitStack() as stack:
        with group.same_outcome():
            if group.is_main:
                stack.enter_context(exclusive_folder(folder, "--checkpoint-path"))
            if group.is_main and tuple(checkpoints_in(folder)) != point.existing:
                raise UserError(f"another run has just written checkpoints to {folder}; start this one again")
        yield


def initialize(model: MoCo, path: str | None, skeleton: Skeleton) -> None:
    """Load the encoders of the pretraining ``--init``, if given; ``UserError`` if they do not fit."""
    if path is None:
        return
    (file,) = last_checkpoints([path])
    checkpoint = load_checkpoint(Path(file))
    check_kind(checkpoint, f"--init {file}")
    check_skeleton(stored_skeleton(checkpoint, file), file, skeleton)
    with checkpoint_errors(Path(file)):
        model.encoders.load_state_dict(submodule_weights(checkpoint["state_dict"], "encoders."))
    print(f"initialized from {file}: {checkpoint['epoch']} epochs on {checkpoint['dataset']}")


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


def describe_run(args: Flags, representations: Sequence[str], clips: ClipSet) -> dict[str, Any]:
    """Return what downstream scripts and a resumed run need to know; it is part of every checkpoint."""
    return {
        "kind": "pretraining",
        "contrast": "intra" if args.pairs == "intra" else "inter",
        "representations": list(representations),
        "sizes": given_sizes(args),
        "flags": dict(vars(args)),
        "dataset": args.dataset,
        "skeleton": clips.skeleton.to_dict(),
        "normalized": clips.normalized,
        "clips_sha256": clips_digest(clips),
        "coordinate_sizes": coordinate_sizes(clips),
        "seed": args.seed,
    }


def check_same_run(
    point: ResumePoint, description: Mapping[str, Any], defaults: Mapping[str, Any], clips: ClipSet
) -> None:
    """Raise ``UserError`` if flags or training clips differ from those of the run that is resumed.

    ``description`` is that of this run; ``defaults`` are those of flags that the checkpoint does not store.
    """
    path, checkpoint, flags = point.path, point.content, description["flags"]
    if path is None or checkpoint is None:
        return
    with checkpoint_errors(path):
        check_skeleton(stored_skeleton(checkpoint, str(path)), str(path), clips.skeleton)
        stored = {**defaults, **point.flags}
        for name, value in flags.items():
            if name not in FREE_FLAGS and value != stored[name]:
                raise UserError(
                    f"{spelled(name, value, 'pre-dataset')}, but {path} was trained with "
                    f"{spelled(name, stored[name], 'pre-dataset')}: use the same value, or choose another "
                    "--checkpoint-path to start over"
                )
        same_names = checkpoint["clips_sha256"] == description["clips_sha256"]
        sizes = checkpoint["coordinate_sizes"], description["coordinate_sizes"]
        if not same_names or not np.allclose(*sizes, rtol=1e-3):
            raise UserError(
                f"the {len(clips)} training clips in {clips.source} are not those that {path} was trained "
                "on: use the same --data-root, or choose another --checkpoint-path to start over"
            )
        if checkpoint["epoch"] > flags["epochs"]:
            raise UserError(
                f"{path} has finished {checkpoint['epoch']} epochs, more than the {flags['epochs']} of this "
                "run; raise --epochs or --steps"
            )
