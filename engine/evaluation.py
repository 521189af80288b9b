"""What all evaluations share: from flags to encoders and clips, and from numbers to ``results.json``."""

from __future__ import annotations

import argparse
import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dataset.clips import ClipSet, open_splits
from dataset.label_subset import classes_without_clip, keep_clips, labeled_clips
from facts.skeletons import Skeleton
from models.registry import join_representations
from options.flags import CLASSIFIER_DEFAULTS, given_sizes
from options.parser import Flags, spelled
from utils.errors import UserError, parse_errors
from utils.files import check_output_folder, exclusive_folder, write_json

from .checkpoint import checkpoints_in
from .device import check_amp, describe, pick_device, use_tf32
from .distributed import require_one_process
from .encoders import COORDINATES, RANDOM, ConcatenatedEncoders, load_encoders
from .features import FeatureExtractor, place_run
from .log import CONFIG_FILE, config_text
from .randomness import WEIGHTS, choose_seed, seed_globally
from .report import FREE_FLAGS, RESULTS, read_result, write_results


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
    def locked_folder(self, resumed: Path | None = None) -> Iterator[None]:
        """Lock the folder of the results in a ``with`` block, after writing and printing the flags.

        ``resumed`` is the checkpoint of a training that is resumed, which was found to have the same flags.
        Raises ``UserError`` if another run is writing to the folder, or it has results of other flags.
        """
        with exclusive_folder(self.folder, "--output-dir"):
            if resumed is None or resumed.resolve().parent != self.folder.resolve():
                claim_folder(self.folder, {**vars(self.args), "seed": self.seed})
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


def claim_folder(folder: Path, flags: Mapping[str, Any]) -> None:
    """Raise ``UserError`` if ``folder`` contains results of other flags; ``--overwrite`` removes them.

    Results of the same flags, including the seed, may be replaced.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        return
    with parse_errors(f"{path} cannot be read"):
        stored = dict(json.loads(path.read_text(encoding="utf-8")))
    spell = partial(spelled, dataset_flag="finetune-dataset")
    differ = [
        f"{spell(name, stored.get(name))} instead of {spell(name, value)}"
        for name, value in flags.items()
        if name not in FREE_FLAGS and normal(stored.get(name)) != normal(value)
    ]
    if differ and not flags["overwrite"]:
        raise UserError(
            f"{folder} contains results of other flags: {', '.join(differ)}; choose another --output-dir, or "
            "add --overwrite to replace them"
        )
    for old in [folder / RESULTS, *folder.glob("*_last.pth.tar")] if differ else []:
        old.unlink(missing_ok=True)


def normal(value: Any) -> Any:
    """Return a flag with its paths in normal form, so that ``./runs/x`` equals ``runs/x``."""
    if isinstance(value, list):
        return [normal(item) for item in value]
    return os.path.normpath(value) if isinstance(value, str) else value


def default_folder(args: argparse.Namespace, task: str, seed: int | None) -> Path:
    """Return a folder next to the first checkpoint, or under ``runs/`` without one.

    Its name distinguishes evaluations of the same checkpoint by the flags that vary most often, and the seed.
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
    if seed is not None:
        parts.append(f"seed{seed}")
    return base / "_".join(part for part in parts if part)


def results_folder(args: argparse.Namespace, task: str, seed: int | None) -> Path:
    """Return ``--output-dir`` or its default for ``seed``.

    Raises ``UserError`` if it is not writable, or contains a pretraining run or results of another task.
    """
    folder = Path(args.output_dir) if args.output_dir else default_folder(args, task, seed)
    check_output_folder(folder, "--output-dir")
    if checkpoints_in(folder):
        raise UserError(
            f"{folder} contains the checkpoints of a pretraining run; choose another --output-dir"
        )
    path = folder / RESULTS
    if path.is_file() and read_result(path)["task"] != task:
        raise UserError(f"{path} belongs to another task; choose another --output-dir")
    return folder


def earlier_file(args: argparse.Namespace, task: str, name: str) -> Path | None:
    """Return the file ``name`` in the folder of the results, if it exists.

    Without ``--seed`` and ``--output-dir``, it is the latest one of any seed.
    """
    folder = results_folder(args, task, args.seed)
    found = [folder / name]
    if args.output_dir is None and args.seed is None:
        found = [*folder.parent.glob(f"{glob.escape(folder.name)}_seed*/{name}")]
    return max((path for path in found if path.is_file()), key=os.path.getmtime, default=None)


def clips_of_classes(clips: ClipSet, classes: Sequence[str]) -> ClipSet:
    """Return the clips of ``classes``, names or numbers from 0; ``UserError`` if unknown or empty."""
    numbers = {name: i for i, name in enumerate(clips.class_names)}
    numbers |= {str(i): i for i in range(clips.num_classes)}
    if unknown := [name for name in classes if name not in numbers]:
        raise UserError(
            f"--classes: there is no class {', '.join(unknown)}; give names or numbers from 0 to "
            f"{clips.num_classes - 1}"
        )
    kept = torch.isin(clips.labels, torch.tensor([numbers[name] for name in classes])).nonzero()[:, 0]
    if not len(kept):
        raise UserError(f"--classes {' '.join(classes)}: the '{clips.split}' split has no clip of them")
    return keep_clips(clips, kept)


def prepare_device(args: argparse.Namespace) -> torch.device:
    """Return the device of ``--gpu``, after checking ``--amp`` and applying ``--tf32``."""
    device = pick_device(args.gpu)
    check_amp(args.amp, device)
    use_tf32(args.tf32 == "on")
    return device


def chosen_encoders(
    args: argparse.Namespace, skeleton: Skeleton | None, frozen: bool = True
) -> ConcatenatedEncoders:
    """Load the encoders that the flags specify, for clips of ``skeleton``; see ``load_encoders``."""
    pretrain, finetune = args.pretrain_skeleton_representation, args.finetune_skeleton_representation
    options = {"frozen": frozen, "skeleton": skeleton, "stream": args.stream}
    return load_encoders(args.pretrained, pretrain, finetune, given_sizes(args), **options)


def prepare_evaluation(args: Flags, task: str, seed: int | None = None, frozen: bool = True) -> Evaluation:
    """Load encoders and clips for ``retrieval`` or a ``--mode``; flags are checked before any output.

    ``seed`` is that of the run that is resumed, None for ``--seed`` or a random one. ``frozen`` encoders are
    evaluated as they are, others are trained.
    """
    require_one_process("an evaluation")
    device = prepare_device(args)
    if args.amp == "fp16" and not frozen:
        raise UserError("--amp fp16 needs loss scaling, which only pretraining supports; use --amp bf16")
    splits: list[ClipSet] = [*open_splits(args.data_root, args.dataset, args.protocol)]
    if task != "retrieval" or splits[0].has_labels:
        splits = [labeled_clips(clips, task) for clips in splits]
    if args.classes is not None:
        splits = [clips_of_classes(clips, args.classes) for clips in splits]
    seed = choose_seed(args.seed, seed)
    folder = results_folder(args, task, seed)
    seed_globally(seed, WEIGHTS)
    encoders = chosen_encoders(args, splits[0].skeleton, frozen).to(device)
    print(
        f"{task} of {join_representations(encoders.representations)} ({encoders.title}) on {args.dataset} "
        f"{args.protocol}: {len(splits[0])} training and {len(splits[1])} validation clips from "
        f"{splits[0].source}, {describe(device, args.gpu)}",
        flush=True,
    )
    extractor, (train, val) = place_run(args, encoders, splits, device)
    return Evaluation(task, args, extractor, train, val, seed, folder)
