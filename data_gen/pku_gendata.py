"""Turn the raw files of PKU-MMD I or II into one store for all protocols.

    python data_gen/pku_gendata.py --part 1 --data_path Data/PKU_Skeleton_Renew \\
        --label_path Label/Train_Label_PKU_final --split_path Split

The label files define which frames of a video are an action. The resulting clips are normalized like those of
NTU RGB+D. The paths can be folders or archives, and may be identical. The store (dataset/store_format.py) is
written atomically. Its store.json lists every video and label line that was left out, with the line and the
reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen import pku_files
from data_gen.command_line import DATA_FOLDER, add_path_flag, add_store_flags, provenance
from data_gen.normalize import normalize_clip
from data_gen.skeleton_file import read_pku_skeleton
from data_gen.sources import Issue
from data_gen.store_writer import Clip, FileResult, StoreWriter, check_target, prepare
from facts.datasets import DATASETS, MAX_FRAMES
from options.parser import Parser
from utils.errors import BadFile, run_script


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--part", choices=("1", "2"), required=True, help="PKU-MMD I or II")
    text = "folders or archives with the skeleton files: 0002-L.txt and so on"
    add_path_flag(parser, "data_path", nargs="+", required=True, help=text)
    text = "folders or archives with the label files (same file names as the skeleton files)"
    add_path_flag(parser, "label_path", nargs="+", required=True, help=text)
    text = "a split file, or the folder with those of both protocols; the protocol is inferred from "
    text += "'subject' or 'view' in the file name, part II from 'v2'"
    add_path_flag(parser, "split_path", required=True, help=text)
    add_store_flags(parser, "data/pku<part>")
    args = parser.parse_args(arguments)
    args.dataset = f"pku{args.part}"
    args.out_folder = args.out_folder or DATA_FOLDER / args.dataset
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    check_target(args.out_folder, args.overwrite)
    splits = pku_files.read_splits(args.split_path, args.part)
    num_classes = DATASETS[args.dataset].num_classes
    videos, left_out = pku_files.find_videos(args.data_path, args.label_path, splits)
    warnings = pku_files.split_warnings(videos, splits)
    for warning in warnings:
        print(f"WARNING: {warning}")
    origin = provenance("data_gen/pku_gendata.py", args, ("part", "data_path", "label_path", "split_path"))
    store = StoreWriter(args.out_folder, args.dataset, num_classes, sorted(splits), origin, args.overwrite)
    store.left_out += left_out
    store.warnings += warnings
    read = partial(read_video, num_classes=num_classes)
    return prepare(store, read, pku_files.load_videos(videos), args, inputs_per_task=1)


def read_video(video: pku_files.Video, num_classes: int) -> FileResult:
    """Read one video into its clips, and the reasons why label lines are left out."""
    label_file = video.labels.display_name
    failed = label_file, 1  # what is left out, and the number of its clips
    try:
        actions, errors = pku_files.parse_labels(video.labels.read(), num_classes)
        failed = video.display_name, max(len(actions), 1)
        bodies = read_pku_skeleton(video.skeletons.read())
    except BadFile as error:
        return FileResult(left_out=[Issue.of(error, *failed)])
    num_frames = bodies.shape[1]
    result = FileResult(left_out=[Issue.of(error, label_file) for error in errors])
    clips: dict[str, Clip] = {}
    for i, action in enumerate(actions):
        name = f"{video.skeletons.name}_{action.start:05d}_{action.end:05d}_A{action.label + 1:03d}"
        try:
            pku_files.check_action(action, num_frames)
            end = min(action.end, action.start + MAX_FRAMES)
            frames = normalize_clip(bodies[:, action.start : end])
        except BadFile as error:
            result.left_out.append(Issue(label_file, action.line, error.reason))
            continue
        if name in clips:
            reason = "the same action as on a line above"
            result.left_out.append(Issue(label_file, action.line, reason, failed_clips=0))
            continue
        clips[name] = Clip(name, action.label, frames, video.splits)
        warnings = pku_files.action_warnings(action, actions[:i], num_frames, MAX_FRAMES)
        result.notes += [Issue(label_file, action.line, warning) for warning in warnings]
    result.clips = [clips[name] for name in sorted(clips)]
    return result


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
