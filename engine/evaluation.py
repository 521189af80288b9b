"""What every evaluation of an encoder begins and ends with."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor, nn

from dataset.clips import ClipSet, open_clips
from dataset.label_subset import classes_without_clip
from options.errors import UserError
from options.flags import given_sizes
from models.representations import join_representations, size_flags

from .device import default_workers, describe, parallel, pick_device, place_clips
from .distributed import processes
from .device import check_amp, in_precision, use_tf32
from .pretrained import COORDINATES, RANDOM, load_encoders
from .randomness import WEIGHTS, choose_seed, seed_globally
from .report import RESULTS, read_result, write_results


@dataclass
class Evaluation:
    """An encoder, the two splits it is measured on, and where the results go."""

    encoders: nn.Module
    encode: Callable  # the same, in its precision and on all devices
    train: ClipSet
    val: ClipSet
    seed: int
    device: torch.device
    folder: Path
    predicted: Tensor | None = None  # (val clips,) classes, by a classifier after its last epoch

    def note_missing_classes(self) -> None:
        """Say which classes no training clip shows: a ceiling on accuracy, and no reason to refuse.

        A class that only one subject, camera or setup recorded is in the val split alone.
        """
        if missing := classes_without_clip(self.train, self.val):
            print(
                f"note: {len(missing)} classes of the val clips have no train clip and cannot be "
                f"recognised: {' '.join(map(str, missing))} (counted from 0)"
            )

    def write(self, task: str, args: argparse.Namespace, numbers: dict) -> Path:
        """``results.json``, with what was run on what."""
        what = {
            "encoder": self.encoders.title,
            "pretrained": " and ".join(args.pretrained),
            "representation": join_representations(self.encoders.representations),
            "dataset": args.dataset, "protocol": args.protocol, "seed": self.seed,
            "clips": {"train": len(self.train), "val": len(self.val)},
            "classes_without_train_clip": classes_without_clip(self.train, self.val),
            "flags": vars(args), "device": describe(self.device, args.gpu),
        }
        path = write_results(self.folder, task, what, numbers)
        print(f"written: {path}")
        return path


def default_folder(args: argparse.Namespace, task: str) -> Path:
    """Beside the (first) checkpoint, or below runs/ where there is none; one folder an evaluation."""
    first, *others = (Path(path) for path in args.pretrained)
    base = Path("runs") / first
    if str(first) not in (RANDOM, COORDINATES):
        names = [first.name, *(f"{path.parent.name}_{path.name}" for path in others)]
        base = first.parent / "_and_".join(name.removesuffix(".pth.tar") for name in names)
    parts = [task, args.dataset, args.protocol, args.finetune_skeleton_representation]
    if getattr(args, "label_fraction", None) is not None:
        parts.append(f"{args.label_sampling}{args.label_fraction}_{args.label_seed}")
    if getattr(args, "cached_crops", None) is not None:
        parts.append(f"crops{args.cached_crops}")
    if args.seed is not None:
        parts.append(f"seed{args.seed}")
    return base / "_".join(part for part in parts if part)


def results_folder(args: argparse.Namespace, task: str) -> Path:
    """``--output-dir`` or its default; refused where results of another task would be lost."""
    folder = Path(args.output_dir) if args.output_dir else default_folder(args, task)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output-dir {folder} is a file; name a folder")
    path = folder / RESULTS
    if path.is_file() and read_result(path)["task"] != task:
        raise UserError(f"{path} is of another task; name another --output-dir")
    return folder


def prepare_evaluation(
    args: argparse.Namespace, task: str, seed: int | None = None, frozen: bool = True
) -> Evaluation:
    """Load what the flags name; nothing is written before all of it is known to be good.

    ``seed`` is that of a run to go on from; otherwise ``--seed``, or one is drawn. ``frozen``:
    the encoder is measured as it is; otherwise it is to be trained.
    """
    if processes() > 1:
        raise UserError("an evaluation is one process, on all visible GPUs: start it without torchrun")
    device = pick_device(args.gpu)
    check_amp(args.amp, device)
    if args.amp == "fp16" and not frozen:
        raise UserError("--amp fp16 scales the loss, which only pretraining does here; use --amp bf16")
    use_tf32(args.tf32 == "on")
    splits = [open_clips(args.data_root, args.dataset, args.protocol, name) for name in ("train", "val")]
    folder = results_folder(args, task)
    seed = choose_seed(args.seed) if seed is None else seed
    seed_globally(seed, WEIGHTS)
    encoders = load_encoders(
        args.pretrained, args.pretrain_skeleton_representation,
        args.finetune_skeleton_representation, given_sizes(args, size_flags()), frozen,
    ).to(device)
    representation = join_representations(encoders.representations)
    print(
        f"{task} of {representation} ({encoders.title}) on {args.dataset} {args.protocol}: "
        f"{len(splits[0])} train and {len(splits[1])} val clips from {splits[0].source}, "
        f"{describe(device, args.gpu)}", flush=True,
    )
    train, val = place_clips(splits, args.data_device, device)
    if args.workers is None:
        args.workers = default_workers(train, device)
    encode = in_precision(parallel(encoders, device, args.gpu), args.amp, device)
    return Evaluation(encoders, encode, train, val, seed, device, folder)
