"""Turn the raw files of PKU-MMD I or II into one store for all protocols.

    python data_gen/pku_gendata.py --part 1 --data_path Data/PKU_Skeleton_Renew \\
        --label_path Label/Train_Label_PKU_final --split_path Split

The videos are cut into actions as the label files say; the clips are then treated like those of
NTU RGB+D. Folders may also be zip archives. The store (dataset/store_format.py) appears when it is
whole; store.json lists every video and label row that was left out, with the line and the reason.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.command_line import (DATA_FOLDER, add_common_flags, add_flag, fill_store, made_by,
                                   report)
from data_gen.errors import BadFile
from data_gen.normalise import clip_frames
from data_gen.pku_files import check_row, notes_on_row, read_pku_labels, read_pku_skeleton
from data_gen.pku_release import Video, find_videos, read_splits
from data_gen.store_writer import Clip, Outcome, Remark, StoreWriter, check_target
from options.datasets import DATASETS, MAX_FRAMES
from options.errors import run_script


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("1", "2"), required=True, help="PKU-MMD I or II")
    add_flag(parser, "data_path", type=Path, nargs="+", required=True,
             help="folders or zip archives with the skeletons, 0002-L.txt and so on")
    add_flag(parser, "label_path", type=Path, nargs="+", required=True,
             help="the same of the label files, which have the same names")
    add_flag(parser, "split_path", type=Path, required=True,
             help="a split file, or the folder that holds those of both protocols; the protocol "
                  "is told by the word 'subject' or 'view' in the name, and part II by 'v2'")
    add_flag(parser, "out_folder", type=Path, help="the store (default: data/pku<part>)")
    add_common_flags(parser)
    args = parser.parse_args(arguments)
    args.dataset = f"pku{args.part}"
    args.out_folder = args.out_folder or DATA_FOLDER / args.dataset
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    begun = time.perf_counter()
    check_target(args.out_folder, args.overwrite)
    splits = read_splits(args.split_path, args.part)
    num_classes = DATASETS[args.dataset].num_classes
    videos, left_out = find_videos(args.data_path, args.label_path, splits, num_classes)
    store = StoreWriter(args.out_folder, args.dataset, num_classes, sorted(splits), made_by(
        "data_gen/pku_gendata.py", args, ("part", "data_path", "label_path", "split_path")),
        args.overwrite)
    store.left_out += left_out
    fill_store(store, read_video, videos, args)
    return report(store, time.perf_counter() - begun)


def read_video(video: Video) -> Outcome:
    """One video to its clips, ordered by name; or why they are fewer than the label rows."""
    outcome = Outcome()
    try:
        rows, bad = read_pku_labels(video.labels.read(), video.num_classes)
    except BadFile as error:
        outcome.left_out.append(Remark(video.labels.shown, error.line, error.reason))
        return outcome
    try:
        bodies = read_pku_skeleton(video.skeletons.read())
    except BadFile as error:
        outcome.left_out.append(Remark(video.skeletons.shown, error.line, error.reason,
                                       lost=max(len(rows), 1)))
        return outcome
    num_frames = bodies.shape[1]
    outcome.left_out += [Remark(video.labels.shown, error.line, error.reason) for error in bad]
    names: set[str] = set()
    for i, row in enumerate(rows):
        name = f"{video.skeletons.name}_{row.start:05d}_{row.end:05d}_A{row.label + 1:03d}"
        try:
            check_row(row, num_frames)
            frames = clip_frames(bodies[:, row.start:min(row.end, row.start + MAX_FRAMES)])
        except BadFile as error:
            outcome.left_out.append(Remark(video.labels.shown, row.line, error.reason))
            continue
        if name in names:
            outcome.left_out.append(Remark(video.labels.shown, row.line,
                                           "the same action as on a line above", lost=0))
            continue
        names.add(name)
        outcome.clips.append(Clip(name, row.label, frames, video.splits))
        outcome.notes += [Remark(video.labels.shown, row.line, note)
                          for note in notes_on_row(row, rows[:i], num_frames, MAX_FRAMES)]
    outcome.clips.sort(key=lambda clip: clip.name)
    return outcome


if __name__ == "__main__":
    run_script(main, saves_memory="--workers")
