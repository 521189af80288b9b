"""Turn your own clips, as numpy arrays, into a store.

    python data_gen/arrays_gendata.py --dataset mine --data_path clips.npz --clips clips.csv

--data_path is one .npz file with an array for each clip, or a folder with a <name>.npy for each:
(frames, 25, 3, people) in metres, in the order of joints of Kinect v2, zero where a joint or a
person is not seen. --clips names and labels them, with one column for each protocol:

    name,label,cross_subject
    walk-anna,0,train
    wave-ben,1,val

Labels count from 0. data_gen/own_clips.py is the same as a Python call.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.array_files import ArrayFile, array_names, read_table
from data_gen.command_line import (DATA_FOLDER, add_common_flags, add_flag, fill_store, made_by,
                                   positive, report)
from data_gen.errors import BadFile
from data_gen.own_clips import frames_of_array
from data_gen.store_writer import Clip, Outcome, Remark, StoreWriter, check_target
from options.datasets import DATASETS
from options.errors import run_script


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a name of your own for the data set")
    add_flag(parser, "data_path", type=Path, required=True, help=".npz file, or folder of .npy")
    parser.add_argument("--clips", type=Path, required=True, help="table of names and labels")
    add_flag(parser, "out_folder", type=Path, help="the store (default: data/<dataset>)")
    add_flag(parser, "num_classes", type=positive, help="default: the largest label and one")
    add_flag(parser, "keep_coordinates", action="store_true",
             help="store at most two people as they are, neither chosen, centred nor turned")
    add_common_flags(parser)
    args = parser.parse_args(arguments)
    if args.dataset in DATASETS:
        parser.error(f"--dataset {args.dataset} is taken; choose a name of your own")
    args.out_folder = args.out_folder or DATA_FOLDER / args.dataset
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    begun = time.perf_counter()
    check_target(args.out_folder, args.overwrite)
    arrays = array_names(args.data_path)
    rows, protocols, left_out = read_table(args.clips, args.data_path, args.num_classes,
                                           not args.keep_coordinates)
    left_out += [Remark(f"{args.data_path.name}/{name}", None, f"no row in {args.clips.name}")
                 for name in sorted(arrays - rows.keys())]
    num_classes = args.num_classes or max((row.label for row in rows.values()), default=0) + 1
    store = StoreWriter(args.out_folder, args.dataset, num_classes, protocols, made_by(
        "data_gen/arrays_gendata.py", args, ("dataset", "data_path", "clips", "num_classes",
                                             "keep_coordinates")), args.overwrite)
    store.left_out += left_out
    fill_store(store, read_clip, [rows[name] for name in sorted(rows)], args)
    return report(store, time.perf_counter() - begun)


def read_clip(file: ArrayFile) -> Outcome:
    try:
        frames = frames_of_array(file.read(), file.normalise)
    except BadFile as error:
        return Outcome(left_out=[Remark(f"{file.data_path.name}/{file.name}", None, error.reason)])
    return Outcome([Clip(file.name, file.label, frames, file.splits)])


if __name__ == "__main__":
    run_script(main, saves_memory="--workers")
