"""Turn a pickle of pyskl (Duan et al., 2022) into a store for all protocols that it contains.

    python data_gen/pyskl_gendata.py --data_path ntu60_3danno.pkl           # -> data/ntu60
    python data_gen/pyskl_gendata.py --data_path ntu60_hrnet.pkl            # 2D poses -> data/ntu60_2d
    python data_gen/pyskl_gendata.py --data_path ntu120_3danno.pkl --dry-run

The pickle contains {"split": {"xsub_train": [names], ...}, "annotations": [{"frame_dir": name, "label":
class, "keypoint": array (people, frames, joints, coordinates), ...}, ...]}. It is read without executing it,
and held in memory. Clips are normalized like those of NTU RGB+D; docs/data.md describes
how pyskl selects bodies. The store (dataset/store_format.py) is written atomically. Its store.json lists
every clip that was left out, with the reason.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.command_line import (
    DATA_FOLDER,
    add_class_flags,
    add_flag,
    add_path_flag,
    add_skeleton_flag,
    add_store_flags,
    provenance,
    read_class_flags,
)
from data_gen.own_clips import frames_of_array
from data_gen.sources import BadFile, Issue
from data_gen.store_writer import (
    Clip,
    FileResult,
    StoreWriter,
    count_splits,
    fill_store,
    preview,
    report,
)
from facts.datasets import DATASETS, MAX_FRAMES, parse_ntu_name
from facts.skeletons import KINECT_V2, SKELETONS, Skeleton, load_skeleton
from options.parser import Parser
from utils.errors import UserError, run_script
from utils.pickles import read_pickle

PROTOCOLS = {"xsub": "cross_subject", "xview": "cross_view", "xset": "cross_setup"}  # pyskl -> protocol
CONTENT = ("split", "annotations")
NTU_DATASETS = ("ntu60", "ntu120")
SPLITS = {"train": "train", "val": "val", "test": "val"}
MAX_LABEL = 9999
MAX_NAME = 255  # characters
CLIPS_PER_TASK = 32
_SPLIT_NAME = re.compile(r"(?P<protocol>.*?)_?(?P<split>train|val|test)(?P<number>\d*)")


@dataclass(frozen=True)
class Annotation:
    """One clip of the pickle, with its split in every protocol."""

    name: str
    label: int
    keypoint: np.ndarray  # (people, frames, joints, coordinates)
    score: np.ndarray | None  # (people, frames, joints), of 2D joints
    splits: Mapping[str, str]  # protocol -> "train" or "val"


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_path_flag(parser, "data_path", required=True, help="the pickle, for example ntu60_3danno.pkl")
    add_flag(
        parser,
        "dataset",
        help=f"{', '.join(DATASETS)}, or a name of your choice (default: from the file name, for NTU RGB+D)",
    )
    add_skeleton_flag(parser, None, "by the number of joints and coordinates")
    add_class_flags(parser, "that of the dataset, or largest label + 1")
    add_flag(
        parser,
        "dry_run",
        action="store_true",
        help="read the names and labels only; print found and published counts",
    )
    add_store_flags(parser, "data/<dataset>, data/<dataset>_2d for 2D poses")
    args = parser.parse_args(arguments)
    args.dataset = args.dataset or _dataset_of(args.data_path.name)
    if args.dataset is None:
        parser.error("--dataset is required, because the file name does not start with ntu60 or ntu120")
    if args.dataset in DATASETS:
        args.num_classes = DATASETS[args.dataset].num_classes
    return args


def _dataset_of(file_name: str) -> str | None:
    match = re.match(r"ntu(60|120)(?!\d)", file_name.lower())
    return match[0] if match else None


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    start = time.perf_counter()
    class_names = read_class_flags(args)
    protocols, annotations, left_out = read_annotations(args.data_path, args.dataset, args.num_classes)
    if args.dry_run:
        counts = count_splits(protocols, (item.splits for item in annotations))
        print("\n".join(preview(args.dataset, counts, left_out)))
        return 0
    skeleton = load_skeleton(args.skeleton) if args.skeleton else find_skeleton(args.data_path, annotations)
    suffix = "_2d" if skeleton.dimensions == 2 and args.dataset in DATASETS else ""
    folder = args.out_folder or DATA_FOLDER / f"{args.dataset}{suffix}"
    num_classes = args.num_classes or max((item.label for item in annotations), default=0) + 1
    origin = provenance("data_gen/pyskl_gendata.py", args, ("dataset", "data_path", "num_classes"))
    store = StoreWriter(folder, args.dataset, num_classes, protocols, origin, args.overwrite, skeleton)
    store.class_names = class_names or store.class_names
    store.left_out += left_out
    max_frames = MAX_FRAMES if args.dataset in NTU_DATASETS else None
    read = partial(read_clip, path=args.data_path, skeleton=skeleton, max_frames=max_frames)
    fill_store(store, read, annotations, args.workers, args.on_error, CLIPS_PER_TASK, "clip")
    return report(store, time.perf_counter() - start)


def read_annotations(
    path: Path, dataset: str, num_classes: int | None
) -> tuple[list[str], list[Annotation], list[Issue]]:
    """Read everything but the arrays.

    Returns the protocols, the annotations by name, and the issues of annotations and names that are left out.

    Raises:
        UserError: the file is not such a pickle, or it contains something that is not plain data.
    """
    content = read_pickle(path)
    lists, items = (content.get(key) if isinstance(content, dict) else None for key in CONTENT)
    if not isinstance(lists, dict) or not isinstance(items, list):
        raise UserError(
            f"{path} is not a pickle of pyskl: it must contain a dictionary 'split' and a list 'annotations'"
        )
    splits, left_out = read_splits(lists, path.name)
    annotations: dict[str, Annotation] = {}
    for number, item in enumerate(items):
        try:
            annotation = parse_annotation(item, splits, num_classes)
            if dataset in NTU_DATASETS:
                check_name(annotation)
        except BadFile as error:
            left_out.append(Issue.of(error, _display_name(path, item, number)))
            continue
        if annotation.name in annotations:
            reason = "the same name as an annotation before it, which is used"
            left_out.append(Issue(f"{path.name}/{annotation.name}", None, reason, failed_clips=0))
        else:
            annotations[annotation.name] = annotation
    found = annotations.keys() | {issue.file.removeprefix(f"{path.name}/") for issue in left_out}
    for protocol, names in splits.items():
        absent = [name for name in names if name not in found]
        left_out += [
            Issue(f"{path.name}/{name}", None, f"listed in {protocol}, no annotation") for name in absent
        ]
        found |= set(absent)
    return list(splits), [annotations[name] for name in sorted(annotations)], left_out


def read_splits(lists: dict[Any, Any], file_name: str) -> tuple[dict[str, dict[str, str]], list[Issue]]:
    """Convert the lists of names of the pickle to protocol -> name -> "train" or "val".

    xsub_train and xsub_val become cross_subject; train and test become "split", and train1 "split1". If there
    are both val and test, test is left out. Also returns the issues of lists and names that are left out.
    """
    splits: dict[str, dict[str, str]] = {}
    left_out = []

    def leave_out(reason: str, failed_clips: int) -> None:
        left_out.append(Issue(file_name, None, reason, failed_clips))

    for key, names in lists.items():
        match = _SPLIT_NAME.fullmatch(key) if _is_name(key) else None
        if match is None or not isinstance(names, (list, tuple)):
            leave_out(f"the split {str(key)[:40]!r} is not a list of names for train, val or test", 0)
            continue
        if match["split"] == "test" and f"{key[: match.start('split')]}val{match['number']}" in lists:
            leave_out(f"the split {key!r} is not used, because there is one for val", 0)
            continue
        protocol = (PROTOCOLS.get(match["protocol"], match["protocol"]) or "split") + match["number"]
        split = SPLITS[match["split"]]
        valid = list(filter(_is_name, names))
        if len(valid) < len(names):
            leave_out(f"the split {key!r} has entries that are not names", len(names) - len(valid))
        for name in valid:
            if splits.setdefault(protocol, {}).setdefault(name, split) != split:
                raise UserError(f"{file_name} cannot be used: {name} is in both splits of {protocol}")
    if not splits:
        raise UserError(f"{file_name} cannot be used: no split such as xsub_train lists any clip")
    return splits, left_out


def parse_annotation(
    item: Any, splits: Mapping[str, Mapping[str, str]], num_classes: int | None
) -> Annotation:
    """Check one entry of the list of annotations. Raises ``BadFile`` if it is not a clip."""
    if item is None:
        raise BadFile("no annotation; pyskl found no body in this clip")
    if not isinstance(item, dict) or not _is_name(item.get("frame_dir")):
        raise BadFile("the annotation has no name, 'frame_dir'")
    name, label, keypoint = item["frame_dir"], item.get("label"), item.get("keypoint")
    if type(label) is not int or not 0 <= label < (num_classes or MAX_LABEL + 1):
        classes = f"one of the {num_classes} classes" if num_classes else "a class"
        raise BadFile(f"the label is not {classes}, counted from 0")
    if not isinstance(keypoint, np.ndarray):
        raise BadFile("the annotation has no array 'keypoint'")
    score = item.get("keypoint_score")
    return Annotation(
        name,
        label,
        keypoint,
        score if isinstance(score, np.ndarray) else None,
        {protocol: split[name] for protocol, split in splits.items() if name in split},
    )


def check_name(annotation: Annotation) -> None:
    """Raise ``BadFile`` if the label contradicts a name of NTU RGB+D; a pickle has no checksum."""
    name = parse_ntu_name(annotation.name)
    if name is not None and name.label != annotation.label:
        raise BadFile(f"the label {annotation.label} contradicts the name (A001 has label 0)")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_NAME


def _display_name(path: Path, item: Any, number: int) -> str:
    name = item.get("frame_dir") if isinstance(item, dict) else None
    return f"{path.name}/{name}" if _is_name(name) else f"{path.name}, annotation {number}"


def find_skeleton(path: Path, annotations: Sequence[Annotation]) -> Skeleton:
    """Return the skeleton with the number of joints and coordinates of most clips.

    Raises:
        UserError: there is none.
    """
    shapes = Counter(item.keypoint.shape[2:] for item in annotations if item.keypoint.ndim == 4)
    if not shapes:
        return KINECT_V2  # no clip can be used
    sizes = shapes.most_common(1)[0][0]
    for skeleton in SKELETONS.values():
        if sizes == (skeleton.num_joints, skeleton.dimensions):
            return skeleton
    raise UserError(
        f"{path} has clips of {sizes[0]} joints with {sizes[1]} coordinates, which no skeleton of "
        f"{', '.join(SKELETONS)} has; define it in a file and give it with --skeleton"
    )


def read_clip(annotation: Annotation, path: Path, skeleton: Skeleton, max_frames: int | None) -> FileResult:
    """Load the arrays of one annotation and normalize the clip, or return the reason why it is left out."""
    display_name = f"{path.name}/{annotation.name}"
    try:
        joints = load_joints(annotation, skeleton)
        frames = frames_of_array(joints[:, :max_frames].transpose(1, 2, 3, 0), skeleton=skeleton)
    except BadFile as error:
        return FileResult(left_out=[Issue.of(error, display_name)])
    result = FileResult([Clip(annotation.name, annotation.label, frames, annotation.splits)])
    if joints.shape[1] > len(frames):
        reason = f"{joints.shape[1]} frames, cut to the first {len(frames)}"
        result.notes.append(Issue(display_name, None, reason))
    return result


def load_joints(annotation: Annotation, skeleton: Skeleton) -> np.ndarray:
    """Return (people, frames, joints, coordinates); the third number of 2D joints is their score, if any.

    Raises ``BadFile`` if the arrays have other shapes.
    """
    keypoint = annotation.keypoint
    score = annotation.score if skeleton.dimensions == 2 else None
    if keypoint.ndim != 4:
        raise BadFile(f"'keypoint' is {keypoint.shape} instead of (people, frames, joints, coordinates)")
    if score is None or keypoint.shape[-1] != 2:
        return keypoint
    if score.shape != keypoint.shape[:-1]:
        raise BadFile(f"'keypoint_score' is {score.shape} instead of {keypoint.shape[:-1]}")
    return np.concatenate([keypoint, score[..., None]], axis=-1)


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
