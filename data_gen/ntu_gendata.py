"""Turn the raw skeleton files of NTU RGB+D 60 or 120 into one store for all protocols.

    cd data_gen; python ntu_gendata.py                     # data/ -> data/ntu60
    python data_gen/ntu_gendata.py --dataset ntu120 --data_path part1.zip part2.zip
    python data_gen/ntu_gendata.py --dry-run               # what is there, what is missing

Raw files are looked for below --data_path, in folders and in zip archives, which need not be
unpacked. The store (dataset/store_format.py) appears when it is whole; store.json lists every file
that was left out, with the line and the reason.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen import ntu_release
from data_gen.command_line import (DATA_FOLDER, add_common_flags, add_flag, fill_store, made_by,
                                   report)
from data_gen.errors import BadFile
from data_gen.normalise import clip_frames
from data_gen.skeleton_file import read_skeleton
from data_gen.sources import RawFile, find_files
from data_gen.store_writer import Clip, Outcome, Remark, StoreWriter, check_target
from options.datasets import DATASETS, ntu_splits, parse_ntu_name
from options.errors import UserError, run_script

FILES_PER_TASK = 16


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flag(parser, "dataset", choices=("ntu60", "ntu120"), default="ntu60",
             help="ntu60 takes setups 1 to 17 (default)")
    add_flag(parser, "data_path", type=Path, nargs="+", default=[DATA_FOLDER],
             help="folders or zip archives with the .skeleton files (default: data)")
    add_flag(parser, "ignored_sample_path", type=Path,
             help="list of missing skeletons as published (default: looked for below --data_path)")
    add_flag(parser, "out_folder", type=Path, help="the store (default: data/<dataset>)")
    add_flag(parser, "dry_run", action="store_true",
             help="look at names only: print found and published counts, and what is missing")
    add_common_flags(parser)
    args = parser.parse_args(arguments)
    args.out_folder = args.out_folder or DATA_FOLDER / args.dataset
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    begun = time.perf_counter()
    if not args.dry_run:
        check_target(args.out_folder, args.overwrite)
    files = find_raw_files(args)
    ignored_list = args.ignored_sample_path = find_ignored_list(args)
    ignored = ntu_release.read_ignored_list(ignored_list) if ignored_list else set()
    selection = ntu_release.select(files, args.dataset, ignored)
    if selection.not_in_dataset:
        print(f"{selection.not_in_dataset:,} files are not in {args.dataset} and are passed over")
    if args.dry_run:
        print("\n".join(ntu_release.dry_run_report(selection, args.dataset, ignored)))
        return 0
    store = StoreWriter(args.out_folder, args.dataset, DATASETS[args.dataset].num_classes,
                        ntu_release.PROTOCOLS, made_by("data_gen/ntu_gendata.py", args,
                        ("dataset", "data_path", "ignored_sample_path")), args.overwrite)
    store.left_out += selection.left_out
    fill_store(store, read_clip, selection.files, args, FILES_PER_TASK)
    return report(store, time.perf_counter() - begun)


def find_raw_files(args: argparse.Namespace) -> list[RawFile]:
    """The raw files; for a dry run, a text file of names stands for files of these names."""
    lists = [path for path in args.data_path
             if args.dry_run and path.is_file() and path.suffix in (".txt", ".gz")]
    files = find_files([path for path in args.data_path if path not in lists],
                       ntu_release.SKELETON_SUFFIX)
    files = sorted(sum(map(ntu_release.read_name_list, lists), files))
    if not files:
        raise UserError(f"no {ntu_release.SKELETON_SUFFIX} file below "
                        f"{', '.join(map(str, args.data_path))}; give the folders or archives "
                        "that hold them with --data_path")
    return files


def find_ignored_list(args: argparse.Namespace) -> Path | None:
    path = (args.ignored_sample_path
            or ntu_release.find_ignored_list(args.dataset, args.data_path))
    print(f"missing skeletons are listed in {path}" if path else
          "no list of missing skeletons found: every file is used")
    return path


def read_clip(file: RawFile) -> Outcome:
    """One raw file to one clip, with a note where frames were cut; or why it is none."""
    try:
        bodies, num_frames = read_skeleton(file.read())
        frames = clip_frames(bodies)
    except BadFile as error:
        return Outcome(left_out=[Remark(file.shown, error.line, error.reason)])
    name = parse_ntu_name(file.name)
    outcome = Outcome([Clip(file.name, name.label, frames, ntu_splits(name))])
    if num_frames > len(frames):
        outcome.notes.append(Remark(file.shown, None, f"{num_frames} frames, cut to the first "
                                    f"{len(frames)}"))
    return outcome


if __name__ == "__main__":
    run_script(main, saves_memory="--workers")
