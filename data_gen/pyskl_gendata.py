"""Turn a pickle of pyskl (Duan et al., 2022) into a store for all protocols that it contains.

    python data_gen/pyskl_gendata.py --data_path ntu60_3danno.pkl           # -> data/ntu60
    python data_gen/pyskl_gendata.py --data_path ntu60_hrnet.pkl            # 2D poses -> data/ntu60_2d
    python data_gen/pyskl_gendata.py --data_path ntu120_3danno.pkl --dry-run
    python data_gen/pyskl_gendata.py --data_path ntu60_xsub_train.pkl ntu60_xsub_val.pkl

The pickle contains {"split": {"xsub_train": [names], ...}, "annotations": [{"frame_dir": name, "label":
class, "keypoint": array (people, frames, joints, coordinates), ...}, ...]}. Older pickles of MMAction2 are
the list of annotations, of the split that their name ends with. Pickles are read without executing them, and
held in memory. Clips are normalized like those of NTU RGB+D; docs/data.md describes how pyskl selects
bodies. The store (dataset/store_format.py) is written atomically. Its store.json lists every clip that was
left out, with the reason.
"""

from __future__ import annotations

import argparse
import operator
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen import command_line as flags
from data_gen.own_clips import prepare_clip
from data_gen.sources import Issue
from data_gen.store_writer import Clip, FileResult, StoreWriter, check_target, count_splits, prepare, preview
from dataset.store_format import MAX_CLASSES
from facts.datasets import DATASETS, MAX_FRAMES, parse_ntu_name
from facts.skeletons import KINECT_V2, Skeleton, load_skeleton, skeleton_of
from options.parser import Parser
from utils.errors import BadFile, UserError, parse_errors, run_script
from utils.pickles import read_pickle

PROTOCOLS = {"xsub": "cross_subject", "xview": "cross_view", "xset": "cross_setup"}  # pyskl -> protocol
NTU_DATASETS = ("ntu60", "ntu120")
SPLITS = {"train": "train", "val": "val", "test": "val"}
MAX_NAME = 255  # characters
_SPLIT_NAME = re.compile(r"(?P<protocol>.*?)_?(?P<split>train|val|test)(?P<number>\d*)")


@dataclass(frozen=True)
class Annotation:
    """One clip of the pickle, with its split in every protocol."""

    name: str
    display_name: str
    label: int
    keypoint: np.ndarray  # (people, frames, joints, coordinates)
    score: np.ndarray | None  # (people, frames, joints), of 2D joints
    splits: Mapping[str, str]  # protocol -> "train" or "val"


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    text = "the pickle, for example ntu60_3danno.pkl; or several, if each is the list of one split"
    flags.add_path_flag(parser, "data_path", nargs="+", required=True, help=text)
    text = f"{', '.join(DATASETS)}, or a name of your choice (default: from the file name, for NTU RGB+D)"
    flags.add_flag(parser, "dataset", help=text)
    flags.add_skeleton_flag(parser, None, "by the number of joints and coordinates")
    flags.add_class_flags(parser, "that of the dataset, or largest label + 1")
    flags.add_dry_run_flag(parser)
    flags.add_store_flags(parser, "data/<dataset>, data/<dataset>_2d for 2D poses")
    args = parser.parse_args(arguments)
    from_name = re.match(r"ntu(60|120)(?!\d)", args.data_path[0].name.lower())
    args.dataset = args.dataset or (from_name and from_name[0])
    if args.dataset is None:
        parser.error("--dataset is required, because the file name does not start with ntu60 or ntu120")
    if args.dataset in DATASETS:
        args.num_classes = DATASETS[args.dataset].num_classes
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    if args.out_folder and not args.dry_run:
        check_target(args.out_folder, args.overwrite)  # before the pickle is read
    class_names = flags.read_class_flags(args)
    protocols, annotations, left_out = read_annotations(args.data_path, args.dataset, args.num_classes)
    if args.dry_run:
        counts = count_splits(protocols, (item.splits for item in annotations))
        print("\n".join(preview(args.dataset, counts, left_out)))
        return 0
    path = args.data_path[0]
    skeleton = load_skeleton(args.skeleton) if args.skeleton else find_skeleton(path, annotations)
    suffix = "_2d" if skeleton.dimensions == 2 and args.dataset in DATASETS else ""
    folder = args.out_folder or flags.DATA_FOLDER / f"{args.dataset}{suffix}"
    num_classes = args.num_classes or max((item.label for item in annotations), default=0) + 1
    origin = flags.provenance("data_gen/pyskl_gendata.py", args, ("dataset", "data_path", "num_classes"))
    store = StoreWriter(folder, args.dataset, num_classes, protocols, origin, args.overwrite, skeleton)
    store.class_names = class_names or store.class_names
    store.left_out += left_out
    max_frames = MAX_FRAMES if args.dataset in NTU_DATASETS else None
    read = partial(read_clip, skeleton=skeleton, max_frames=max_frames)
    return prepare(store, read, annotations, args, unit="clip")


def read_annotations(
    paths: Sequence[Path], dataset: str, num_classes: int | None
) -> tuple[list[str], list[Annotation], list[Issue]]:
    """Return the protocols, the annotations by name, and the issues of annotations and names left out.

    Raises ``UserError`` if a file is not such a pickle.
    """
    path = paths[0]
    lists: dict[Any, Any] = {}
    items: list[Any] = []
    for file in paths:
        content = read_pickle(file)
        if isinstance(content, list) and content:
            names = [item.get("frame_dir") for item in content if isinstance(item, dict)]
            content = {"split": {split_of_file(file): names}, "annotations": content}
        expected = "with the dictionary 'split' and the list 'annotations'"
        with parse_errors(f"{file} is not a pickle of pyskl, {expected}"):
            if lists.keys() & content["split"].keys():
                advice = "rename it to end with train or val"
                raise UserError(f"{file} has the same split as another file; {advice}")
            lists |= content["split"]
            items += content["annotations"]
    splits, left_out = read_splits(lists, path.name)
    names = [item.get("frame_dir") if isinstance(item, dict) else None for item in items]
    names = [name if _is_name(name) else None for name in names]
    counts = Counter(filter(None, names))
    annotations: dict[str, Annotation] = {}
    for number, (name, item) in enumerate(zip(names, items)):
        display_name = f"{path.name}/{name}" if name else f"{path.name}, annotation {number}"
        try:
            ntu_name = parse_ntu_name(name) if dataset in NTU_DATASETS and name else None
            labels = range(num_classes or MAX_CLASSES)
            labels = labels[ntu_name.label :][:1] if ntu_name else labels
            if counts[name] > 1:
                raise BadFile(f"{counts[name]} annotations have this name")
            annotations[name] = parse_annotation(item, display_name, splits, labels)
        except BadFile as error:
            left_out.append(Issue.of(error, display_name))
    found = annotations.keys() | {issue.file.removeprefix(f"{path.name}/") for issue in left_out}
    for protocol, split in splits.items():
        reason = f"listed in {protocol}, no annotation"
        left_out += [Issue(f"{path.name}/{name}", None, reason) for name in sorted(split.keys() - found)]
        found |= split.keys()
    return list(splits), [annotations[name] for name in sorted(annotations)], left_out


def split_of_file(path: Path) -> str:
    """Return the split in the name of a file: xsub_val for ``ntu60_xsub_val.pkl``, all_train without any."""
    match = re.search(r"(?:(xsub|xview|xset)[_-]?)?(train|val|test)$", path.stem.lower())
    return "_".join(filter(None, match.groups())) if match else "all_train"


def read_splits(lists: dict[Any, Any], file_name: str) -> tuple[dict[str, dict[str, str]], list[Issue]]:
    """Convert the lists of names of the pickle to protocol -> name -> "train" or "val".

    xsub_train and xsub_val become cross_subject; train and test become "split", and train1 "split1". Beside
    val, test is left out. Also returns the issues of lists and names that are left out.
    """
    splits: dict[str, dict[str, str]] = {}
    left_out = []

    def leave_out(key: object, reason: str, failed_clips: int = 0) -> None:
        left_out.append(Issue(file_name, None, f"the split {str(key)[:40]!r} {reason}", failed_clips))

    for key, names in lists.items():
        match = _SPLIT_NAME.fullmatch(key) if _is_name(key) else None
        names = names.astype(str).ravel().tolist() if isinstance(names, np.ndarray) else names
        if match is None or not isinstance(names, (list, tuple, set)):
            leave_out(key, "is not a list of names for train, val or test")
            continue
        if match["split"] == "test" and f"{key[: match.start('split')]}val{match['number']}" in lists:
            leave_out(key, "is not used, because there is one for val")
            continue
        protocol = (PROTOCOLS.get(match["protocol"], match["protocol"]) or "split") + match["number"]
        split = SPLITS[match["split"]]
        valid = list(filter(_is_name, names))
        if len(valid) < len(names):
            leave_out(key, "has entries that are not names", len(names) - len(valid))
        for name in valid:
            if splits.setdefault(protocol, {}).setdefault(name, split) != split:
                raise UserError(f"{file_name} cannot be used: {name} is in both splits of {protocol}")
    if not splits:
        raise UserError(f"{file_name} cannot be used: no split such as xsub_train lists any clip")
    return splits, left_out


def parse_annotation(
    item: Any, display_name: str, splits: Mapping[str, Mapping[str, str]], labels: Sequence[int]
) -> Annotation:
    """Parse one entry of the list of annotations. Raises ``BadFile`` if it is not a clip.

    ``labels`` are the possible ones: that of the name for NTU RGB+D, because a pickle has no checksum.
    """
    with parse_errors("no clip with 'frame_dir', a 'label' of the dataset and name, and 'keypoint'", BadFile):
        name, label, keypoint = item["frame_dir"], operator.index(item["label"]), item["keypoint"]
        if not _is_name(name) or label not in labels or not isinstance(keypoint, np.ndarray):
            raise ValueError(f"{name!r:.40}, {label!s:.9}, {np.shape(keypoint)}")
        clip_splits = {protocol: split[name] for protocol, split in splits.items() if name in split}
        return Annotation(name, display_name, label, keypoint, item.get("keypoint_score"), clip_splits)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_NAME


def find_skeleton(path: Path, annotations: Sequence[Annotation]) -> Skeleton:
    """Return the skeleton with the joints and coordinates of most clips; raises ``UserError`` for others."""
    shapes = Counter(item.keypoint.shape[2:] for item in annotations)
    sizes = max(shapes, key=shapes.__getitem__, default=KINECT_V2.frame_shape[:2])
    with parse_errors(f"{path} has clips of another shape than 'keypoint' of pyskl"):
        num_joints, dimensions = sizes
        return skeleton_of(num_joints, dimensions)


def read_clip(annotation: Annotation, skeleton: Skeleton, max_frames: int | None) -> FileResult:
    """Normalize the clip of one annotation. Raises ``BadFile`` if its arrays are not those of a clip."""
    keypoint, score = annotation.keypoint, annotation.score
    with parse_errors("'keypoint' is not an array (people, frames, joints, coordinates)", BadFile):
        if score is not None and keypoint.shape[-1] == skeleton.dimensions == 2:
            # the peak of a heatmap, which is the score of some estimators, is sometimes just outside [0, 1]
            score = np.where(np.abs(score - 0.5) < 0.75, np.clip(score, 0, 1), score)
            keypoint = np.concatenate([keypoint, score[..., None]], axis=-1)
        array = keypoint.transpose(1, 2, 3, 0)
    clip = Clip(annotation.name, annotation.label, array[:max_frames], annotation.splits)
    result = prepare_clip(clip, annotation.display_name, skeleton=skeleton)
    if len(array) > len(clip.frames):
        reason = f"{len(array)} frames, cut to the first {max_frames}"
        result.notes.append(Issue(annotation.display_name, None, reason))
    return result


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
