"""Turn your own clips, as numpy arrays, into a store.

    python data_gen/arrays_gendata.py --dataset mine --data_path clips.npz --clips clips.csv

--data_path is an .npz file with one array per clip, or a folder with one <name>.npy per clip: (frames,
joints, 3, people) in meters, zero for joints and people that are not tracked. The joints are those of Kinect
v2 unless --skeleton is given; for a 2D skeleton the third axis is x, y and optionally a score. --clips lists
the names and labels of the clips, with one column per protocol:

    name,label,cross_subject
    walk-anna,0,train
    wave-ben,1,val

Labels count from 0. A column class_name, or a file given with --class_names, contains the names of the
classes. data_gen/own_clips.py does the same from Python.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

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
from data_gen.own_clips import TableRow, class_names_of, frames_of_array, read_array, read_table
from data_gen.sources import BadFile, Issue, RawFile, find_arrays, load_contents, resolve_names
from data_gen.store_writer import Clip, FileResult, StoreWriter, check_target, fill_store, report
from data_gen.units import body_size, unit_warning
from facts.datasets import DATASETS
from facts.skeletons import KINECT_V2, Skeleton, load_skeleton
from options.parser import Parser
from utils.errors import run_script


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--dataset", required=True, help="a name for the dataset")
    add_path_flag(parser, "data_path", required=True, help="an .npz file, or a folder with .npy files")
    add_path_flag(parser, "clips", required=True, help="the table of names, labels and splits")
    add_skeleton_flag(parser, KINECT_V2.name, KINECT_V2.name)
    add_class_flags(parser, "largest label + 1")
    add_flag(
        parser,
        "keep_coordinates",
        action="store_true",
        help="store at most two people unchanged: no person selection, centering, rotation or scaling",
    )
    add_store_flags(parser)
    args = parser.parse_args(arguments)
    if args.dataset in DATASETS:
        parser.error(f"--dataset {args.dataset} is reserved; choose another name")
    args.out_folder = args.out_folder or DATA_FOLDER / args.dataset
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    start = time.perf_counter()
    check_target(args.out_folder, args.overwrite)
    skeleton = load_skeleton(args.skeleton)
    class_names = read_class_flags(args)
    rows, protocols, left_out = read_table(args.clips, args.num_classes)
    arrays = find_arrays(args.data_path, left_out)
    array_of = resolve_names(rows, arrays)
    left_out += [
        Issue(f"{args.data_path.name}/{name}", None, "array not found")
        for name in sorted(rows.keys() - array_of.keys())
    ]
    used = {array.display_name for array in array_of.values()}
    left_out += [
        Issue(array.display_name.removesuffix(".npy"), None, f"no row in {args.clips.name}")
        for array in arrays
        if array.display_name not in used
    ]
    num_classes = args.num_classes or max((row.label for row in rows.values()), default=0) + 1
    flags = ("dataset", "data_path", "clips", "num_classes", "keep_coordinates")
    origin = provenance("data_gen/arrays_gendata.py", args, flags)
    store = StoreWriter(
        args.out_folder, args.dataset, num_classes, protocols, origin, args.overwrite, skeleton
    )
    store.class_names = class_names or class_names_of(rows.values(), num_classes)
    store.left_out += left_out
    row_of = {array.display_name: rows[name] for name, array in array_of.items()}
    files = load_contents([array_of[name] for name in sorted(array_of)])
    clips = ((row_of[file.display_name], file) for file in files)
    read = partial(read_clip, normalize=not args.keep_coordinates, skeleton=skeleton)
    fill_store(store, read, clips, args.workers, args.on_error)
    if rows and min(row.label for row in rows.values()) > 0:
        store.warnings.append(
            "no clip has label 0, but labels count from 0; if yours count from 1, subtract 1"
        )
    if warning := unit_warning(store.body_sizes):
        store.warnings.append(warning)
    return report(store, time.perf_counter() - start)


def read_clip(row_and_array: tuple[TableRow, RawFile], normalize: bool, skeleton: Skeleton) -> FileResult:
    """Read one array into a clip, or the reason why it is left out."""
    row, file = row_and_array
    try:
        array = read_array(file)
        frames = frames_of_array(array, normalize, skeleton)
    except BadFile as error:
        return FileResult(left_out=[Issue.of(error, file.display_name)])
    return FileResult(
        [Clip(re.sub(r"\.npy$", "", row.name, flags=re.IGNORECASE), row.label, frames, row.splits)],
        body_sizes=[body_size(array, skeleton)],
    )


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
