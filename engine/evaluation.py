"""What all evaluations share: from flags to encoders and clips, and from numbers to ``results.json``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from dataset.clips import ClipSet, open_clips
from dataset.label_subset import classes_without_clip
from models.registry import join_representations
from options.defaults import CLASSIFIER_DEFAULTS
from options.flags import given_sizes
from utils.errors import UserError
from utils.files import check_output_folder

from .checkpoint import checkpoints_in
from .device import (
    check_amp,
    default_workers,
    describe,
    in_precision,
    parallel,
    pick_device,
    place_clips,
    use_tf32,
)
from .distributed import processes
from .encoders import COORDINATES, RANDOM, load_encoders
from .features import FeatureExtractor
from .randomness import WEIGHTS, choose_seed, seed_globally
from .report import RESULTS, read_result, write_results


@dataclass
class Evaluation:
    """Encoders, the clips on which they are evaluated, and the folder of the results."""

    extractor: FeatureExtractor
    train: ClipSet
    val: ClipSet
    seed: int
    folder: Path

    def note_missing_classes(self) -> None:
        """Print a note if validation classes have no training clips, which limits the accuracy."""
        if missing := classes_without_clip(self.train, self.val):
            print(
                f"note: {len(missing)} validation classes have no training clips and cannot be predicted: "
                f"{' '.join(map(str, missing))} (counted from 0)"
            )

    def write(self, task: str, args: argparse.Namespace, numbers: dict) -> Path:
        """Write ``results.json``: the metrics ``numbers`` and what was evaluated; returns its path."""
        encoders = self.extractor.encoders
        metadata = {
            "encoder": encoders.title,
            "pretrained": " and ".join(args.pretrained),
            "representation": join_representations(encoders.representations),
            "dataset": args.dataset,
            "protocol": args.protocol,
            "skeleton": self.train.skeleton.name,
            "seed": self.seed,
            "clips": {"train": len(self.train), "val": len(self.val)},
            "classes_without_train_clip": classes_without_clip(self.train, self.val),
            "flags": vars(args),
            "device": describe(self.extractor.device, args.gpu),
        }
        return write_results(self.folder, task, metadata, numbers)


def default_folder(args: argparse.Namespace, task: str) -> Path:
    """Return a folder next to the first checkpoint, or under ``runs/`` without one.

    Its name distinguishes evaluations of the same checkpoint.
    """
    first, *others = (Path(path) for path in args.pretrained)
    base = Path("runs") / first
    if str(first) not in (RANDOM, COORDINATES):
        names = [first.name, *(f"{path.parent.name}_{path.name}" for path in others)]
        base = first.parent / "_and_".join(name.removesuffix(".pth.tar") for name in names)
    finetune = args.finetune_skeleton_representation
    parts = [task, args.dataset, args.protocol, finetune and finetune.replace(":", "-"), args.stream]
    if getattr(args, "label_fraction", None) is not None:
        parts.append(f"{args.label_sampling}{args.label_fraction}_{args.label_seed}")
    if getattr(args, "cached_crops", None) is not None:
        parts.append(f"crops{args.cached_crops}")
    if task in CLASSIFIER_DEFAULTS and args.lr != CLASSIFIER_DEFAULTS[task]["lr"]:
        parts.append(f"lr{args.lr:g}")
    if getattr(args, "knn_neighbours", 1) != 1:
        parts.append(f"k{args.knn_neighbours}")
    if args.seed is not None:
        parts.append(f"seed{args.seed}")
    return base / "_".join(part for part in parts if part)


def results_folder(args: argparse.Namespace, task: str) -> Path:
    """Return ``--output-dir`` or its default.

    Raises:
        UserError: it is not writable, or contains a pretraining run or the results of another task.
    """
    folder = Path(args.output_dir) if args.output_dir else default_folder(args, task)
    check_output_folder(folder, "--output-dir")
    if checkpoints_in(folder):
        raise UserError(
            f"{folder} contains the checkpoints of a pretraining run; choose another --output-dir"
        )
    path = folder / RESULTS
    if path.is_file() and read_result(path)["task"] != task:
        raise UserError(f"{path} belongs to another task; choose another --output-dir")
    return folder


def prepare_evaluation(
    args: argparse.Namespace, task: str, seed: int | None = None, frozen: bool = True
) -> Evaluation:
    """Load encoders and clips; all flags are checked before anything is written.

    Sets ``args.seed``, ``args.workers`` and ``args.output_dir`` to the values that are used.

    Args:
        args: the flags of the script.
        task: ``retrieval`` or a ``--mode``, for logs and results.
        seed: the seed of the run that is resumed; otherwise ``--seed`` or a random one.
        frozen: whether the encoders are evaluated as they are, or trained.
    """
    one_process = "an evaluation is one process that uses all visible GPUs: start it without torchrun"
    if processes(one_process) > 1:
        raise UserError(one_process)
    device = pick_device(args.gpu)
    check_amp(args.amp, device)
    if args.amp == "fp16" and not frozen:
        raise UserError("--amp fp16 needs loss scaling, which only pretraining supports; use --amp bf16")
    use_tf32(args.tf32 == "on")
    splits = [open_clips(args.data_root, args.dataset, args.protocol, name) for name in ("train", "val")]
    folder = results_folder(args, task)
    args.seed = choose_seed(args.seed) if seed is None else seed
    args.output_dir = str(folder)
    seed_globally(args.seed, WEIGHTS)
    encoders = load_encoders(
        args.pretrained,
        args.pretrain_skeleton_representation,
        args.finetune_skeleton_representation,
        given_sizes(args),
        frozen=frozen,
        skeleton=splits[0].skeleton,
        stream=args.stream,
    ).to(device)
    print(
        f"{task} of {join_representations(encoders.representations)} ({encoders.title}) on {args.dataset} "
        f"{args.protocol}: {len(splits[0])} training and {len(splits[1])} validation clips from "
        f"{splits[0].source}, {describe(device, args.gpu)}",
        flush=True,
    )
    train, val = place_clips(splits, args.data_device, device)
    if args.workers is None:
        args.workers = default_workers(train, device)
    encode = parallel(in_precision(encoders, args.amp, device), device, args.gpu)
    extractor = FeatureExtractor(encoders, device, encode, args.workers)
    return Evaluation(extractor, train, val, args.seed, folder)
