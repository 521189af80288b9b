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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from data_gen import ntu_release
from data_gen.command_line import DATA_FOLDER, add_common_flags, add_flag, made_by, report
from data_gen.errors import BadFile
from data_gen.normalise import normalise_clip
from data_gen.parallel import ordered_map
from data_gen.skeleton_file import read_skeleton
from data_gen.sources import RawFile, find_files
from data_gen.store_writer import Clip, Remark, StoreWriter
from options.datasets import DATASETS, ntu_splits, parse_ntu_name
from options.errors import UserError, run_script

FILES_PER_TASK = 16


def parse_args() -> argparse.Namespace:
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
    args = parser.parse_args()
    args.out_folder = args.out_folder or DATA_FOLDER / args.dataset
    return args


def main() -> int:
    args = parse_args()
    begun = time.perf_counter()
    store = StoreWriter(args.out_folder, args.dataset, DATASETS[args.dataset].num_classes,
                        ntu_release.PROTOCOLS,
                        made_by("data_gen/ntu_gendata.py", args,
                                ("dataset", "data_path", "ignored_sample_path")),
                        overwrite=args.overwrite or args.dry_run)
    files = find_raw_files(args)
    ignored = ignored_names(args)
    selection = ntu_release.select(files, args.dataset, ignored)
    if selection.not_in_dataset:
        print(f"{selection.not_in_dataset:,} files are not in {args.dataset} and are passed over")
    if args.dry_run:
        print("\n".join(ntu_release.dry_run_report(selection, args.dataset, ignored)))
        return 0
    store.left_out += selection.left_out
    with store:
        for clip, remark in make_clips(selection.files, args.workers):
            if clip is None and args.on_error == "stop":
                raise UserError(f"{remark}; --on-error skip goes on without such files")
            store.take(clip, remark)
    print("\n".join(ntu_release.compare_to_published(store.names, args.dataset)))
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


def ignored_names(args: argparse.Namespace) -> set[str]:
    path = args.ignored_sample_path
    if path is None:
        path = ntu_release.find_ignored_list(args.dataset, args.data_path)
    if path is None:
        print("no list of missing skeletons found: every file is used")
        return set()
    names = ntu_release.read_ignored_list(path)
    print(f"{path.name}: {len(names)} names of missing skeletons")
    return names


def make_clips(files: list[RawFile], workers: int):
    """The clips of ``files`` in their order, as pairs (clip or None, remark or None)."""
    tasks = [files[i:i + FILES_PER_TASK] for i in range(0, len(files), FILES_PER_TASK)]
    with tqdm(total=len(files), unit="clip", disable=None) as bar:
        for results in ordered_map(read_clips, tasks, workers):
            bar.update(len(results))
            yield from results


def read_clips(files: list[RawFile]) -> list[tuple[Clip | None, Remark | None]]:
    return [read_clip(file) for file in files]


def read_clip(file: RawFile) -> tuple[Clip | None, Remark | None]:
    """One raw file to one clip, with a remark where frames were cut; or why it is none."""
    try:
        bodies, num_frames = read_skeleton(file.read())
        people = normalise_clip(bodies)
    except BadFile as error:
        return None, Remark(file.shown, error.line, error.reason)
    frames = np.ascontiguousarray(people.transpose(1, 2, 3, 0))
    name = parse_ntu_name(file.name)
    clip = Clip(file.name, name.label, frames, ntu_splits(name))
    if num_frames == len(frames):
        return clip, None
    return clip, Remark(file.shown, None, f"{num_frames} frames, cut to the first {len(frames)}")


if __name__ == "__main__":
    run_script(main)
