"""What all evaluations share: from flags to encoders and clips, and from numbers to ``results.json``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataset.clips import ClipSet, open_clips
from dataset.label_subset import classes_without_clip
from models.registry import join_representations
from options.flags import CLASSIFIER_DEFAULTS, given_sizes
from options.parser import Flags
from utils.errors import UserError
from utils.files import check_output_folder, exclusive_folder, write_json

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
from .log import CONFIG_FILE, config_text
from .randomness import WEIGHTS, choose_seed, seed_globally
from .report import RESULTS, read_result, write_results

# Flags that do not change what is evaluated.
FREE_FLAGS = {
    "output_dir",
    "resume",
    "workers",
    "gpu",
    "data_device",
    "tf32",
    "print_freq",
    "pretrain_skeleton_representation",  # official checkpoints do not store it
    "save_scores",
    "save_features",
    "gallery",
    "gallery_queries",
    "tsne",
    "tsne_classes",
    "format",
    "dpi",
    "width",
}


@dataclass(frozen=True)
class Evaluation:
    """Encoders, the clips on which they are evaluated, and the folder of the results.

    ``task`` is ``retrieval`` or a ``--mode``; ``args`` are the flags of the script.
    """

    task: str
    args: Flags
    extractor: FeatureExtractor
    train: ClipSet
    val: ClipSet
    seed: int
    folder: Path

    @property
    def config(self) -> Flags:
        """The flags that this evaluation uses, with the values that were chosen for it."""
        used = {name: value for name, value in vars(self.args).items() if value is not None}
        chosen = {"seed": self.seed, "output_dir": str(self.folder), "workers": self.extractor.workers}
        return Flags(argparse.Namespace(**used), **chosen)

    def note_missing_classes(self) -> None:
        """Print a note if validation classes have no training clips, which limits the accuracy."""
        if missing := classes_without_clip(self.train, self.val):
            print(
                f"note: {len(missing)} validation classes have no training clips and cannot be predicted: "
                f"{' '.join(map(str, missing))} (counted from 0)"
            )

    @contextmanager
    def locked_folder(self) -> Iterator[None]:
        """Lock the folder of the results in a ``with`` block, after writing and printing the flags."""
        with exclusive_folder(self.folder, "--output-dir"):
            write_json(self.folder / CONFIG_FILE, vars(self.config))
            print(config_text(self.config), flush=True)
            yield

    def write(self, numbers: dict) -> Path:
        """Write ``results.json``: the metrics ``numbers`` and what was evaluated; returns its path."""
        encoders = self.extractor.encoders
        metadata = {
            "encoder": encoders.title,
            "pretrained": " and ".join(self.args.pretrained),
            "representation": join_representations(encoders.representations),
            "dataset": self.args.dataset,
            "protocol": self.args.protocol,
            "skeleton": self.train.skeleton.name,
            "seed": self.seed,
            "clips": {"train": len(self.train), "val": len(self.val)},
            "classes_without_train_clip": classes_without_clip(self.train, self.val),
            "flags": vars(self.config),
            "device": describe(self.extractor.device, self.args.gpu),
        }
        return write_results(self.folder, self.task, metadata, numbers)


def default_folder(args: argparse.Namespace, task: str) -> Path:
    """Return a folder next to the first checkpoint, or under ``runs/`` without one.

    Its name distinguishes evaluations of the same checkpoint.
    """
    first, *others = (Path(path) for path in args.pretrained)
    base = Path("runs") / first
    if str(first) not in (RANDOM, COORDINATES):
        names = [first.name, *(f"{path.parent.name}_{path.name}" for path in others)]
        base = first.parent / "_and_".join(name.removesuffix(".pth.tar") for name in names)
    given = {name: value for name, value in vars(args).items() if value is not None}
    parts = [task, args.dataset, args.protocol]
    parts += [given.get("finetune_skeleton_representation", "").replace(":", "-"), given.get("stream")]
    if "label_fraction" in given:
        parts.append(f"{args.label_sampling}{args.label_fraction}_{args.label_seed}")
    if "cached_crops" in given:
        parts.append(f"crops{args.cached_crops}")
    if task in CLASSIFIER_DEFAULTS and args.lr != CLASSIFIER_DEFAULTS[task]["lr"]:
        parts.append(f"lr{args.lr:g}")
    if given.get("knn_neighbours", 1) != 1:
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


def prepare_evaluation(args: Flags, task: str, seed: int | None = None, frozen: bool = True) -> Evaluation:
    """Load encoders and clips; all flags are checked before anything is written.

    Args:
        args: the flags of the script.
        task: ``retrieval`` or a ``--mode``, for logs and results.
        seed: the seed of the run that is resumed; otherwise ``--seed`` or a random one.
        frozen: whether the encoders are evaluated as they are, or trained.
    """
    if processes() > 1:
        raise UserError("an evaluation is one process that uses all visible GPUs: start it without torchrun")
    device = pick_device(args.gpu)
    check_amp(args.amp, device)
    if args.amp == "fp16" and not frozen:
        raise UserError("--amp fp16 needs loss scaling, which only pretraining supports; use --amp bf16")
    use_tf32(args.tf32 == "on")
    splits = [open_clips(args.data_root, args.dataset, args.protocol, name) for name in ("train", "val")]
    folder = results_folder(args, task)
    seed = choose_seed(args.seed, seed)
    seed_globally(seed, WEIGHTS)
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
    workers = default_workers(train, device) if args.workers is None else args.workers
    encode = parallel(in_precision(encoders, args.amp, device), device, args.gpu)
    extractor = FeatureExtractor(encoders, device, encode, workers)
    return Evaluation(task, args, extractor, train, val, seed, folder)
