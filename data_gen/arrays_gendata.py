"""Turn your own clips, as numpy arrays, into a store.

    python data_gen/arrays_gendata.py --dataset mine --data_path clips.npz --clips clips.csv

    python data_gen/arrays_gendata.py --dataset mine --data_path clips --val-subjects s03 s07

--data_path is an .npz file with one array per clip, or a folder with one .npy file per clip: (frames, joints,
3, people) in meters, NaN or zero for joints and people that are missing. The joints are those of Kinect v2
unless --skeleton is given; for a 2D skeleton the third axis is x and y. A score may follow the coordinates.
--clips lists the names of the clips, which are paths below --data_path, and their labels, with one column per
protocol:

    name,label,cross_subject
    walk-anna,0,train
    wave-ben,1,val

Without the table the folder of a clip is its class, and arrays that are in no folder have no label.
Labels count from 0. A column class_name, or a file given with --class_names, contains the names of the
classes. data_gen/own_clips.py does the same from Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen import command_line as flags
from data_gen.class_folders import add_label_flags, label_files, open_store
from data_gen.own_clips import TableRow, prepare_clip
from data_gen.sources import Issue, find_arrays, load_contents
from data_gen.store_writer import Clip, FileResult, check_target, prepare
from facts.datasets import DATASETS
from facts.skeletons import KINECT_V2, Skeleton, load_skeleton
from options.parser import Parser
from utils.errors import run_script


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--dataset", required=True, help="a name for the dataset")
    flags.add_path_flag(parser, "data_path", required=True, help="an .npz file, or a folder with .npy files")
    add_label_flags(parser)
    flags.add_skeleton_flag(parser, KINECT_V2.name, KINECT_V2.name)
    flags.add_class_flags(parser, "largest label + 1")
    text = "store at most two people unchanged: no person selection, centering, rotation or scaling"
    flags.add_flag(parser, "keep_coordinates", action="store_true", help=text)
    flags.add_store_flags(parser)
    args = parser.parse_args(arguments)
    if args.dataset in DATASETS:
        parser.error(f"--dataset {args.dataset} is reserved; choose another name")
    args.out_folder = args.out_folder or flags.DATA_FOLDER / args.dataset
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    check_target(args.out_folder, args.overwrite)
    skeleton = load_skeleton(args.skeleton)
    class_names = flags.read_class_flags(args)
    left_out: list[Issue] = []
    found = label_files(find_arrays(args.data_path, left_out), args, class_names, left_out)
    store = open_store(found, "data_gen/arrays_gendata.py", args, skeleton, ["keep_coordinates"])
    row_of = {row.display_name: row for row in found.rows}
    files = load_contents([row.file for row in found.rows])
    clips = (replace(row_of[file.display_name], file=file) for file in files)
    read = partial(read_clip, normalize=not args.keep_coordinates, skeleton=skeleton)
    return prepare(store, read, clips, args, inputs_per_task=1)


def read_clip(row: TableRow, normalize: bool, skeleton: Skeleton) -> FileResult:
    """Read the array of a row into a clip. Raises ``BadFile`` if it is not one."""
    clip = Clip(row.name, row.label, row.file.read_array(), row.splits)
    return prepare_clip(clip, row.display_name, normalize, skeleton)


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
