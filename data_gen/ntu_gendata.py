"""Turn the skeleton files of NTU RGB+D 60 or 120 into one store for all protocols.

    cd data_gen; python ntu_gendata.py                     # data/ -> data/ntu60
    python data_gen/ntu_gendata.py --dataset ntu120 --data_path part1.zip part2.zip
    python data_gen/ntu_gendata.py --dry-run               # what is present, what is missing

Finds .skeleton files under --data_path, in folders and in archives (.zip, .tar, .tar.gz, .tar.xz), which need
not be extracted. The store (dataset/store_format.py) is written atomically. Its store.json lists every file
that was left out, with the line and the reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.command_line import DATA_FOLDER, add_flag, add_path_flag, add_store_flags, provenance
from data_gen.normalize import normalize_clip
from data_gen.ntu_files import PROTOCOLS, dry_run_report, find_missing_list, find_skeleton_files, select_files
from data_gen.skeleton_file import read_skeleton
from data_gen.sources import Issue, RawFile, load_contents
from data_gen.store_writer import Clip, FileResult, StoreWriter, check_target, prepare
from facts.datasets import DATASETS, ntu_splits, parse_ntu_name
from options.parser import Parser
from utils.errors import run_script


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    text = "ntu60 uses setups 1 to 17 (default: ntu60)"
    add_flag(parser, "dataset", choices=("ntu60", "ntu120"), default="ntu60", help=text)
    text = "folders or archives with the .skeleton files (default: data)"
    add_path_flag(parser, "data_path", nargs="+", default=[DATA_FOLDER], help=text)
    text = "the published list of missing skeletons (default: found under --data_path)"
    add_path_flag(parser, "ignored_sample_path", help=text)
    text = "scan file names only; print found and published counts, and what is missing"
    add_flag(parser, "dry_run", action="store_true", help=text)
    add_store_flags(parser)
    args = parser.parse_args(arguments)
    args.out_folder = args.out_folder or DATA_FOLDER / args.dataset
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    if not args.dry_run:
        check_target(args.out_folder, args.overwrite)
    found = find_skeleton_files(args.data_path, args.dry_run)
    missing = find_missing_list(args.dataset, found, args.ignored_sample_path)
    args.ignored_sample_path = missing.path
    selection = select_files(found.files, args.dataset, missing.names)
    selection.left_out += found.left_out()
    if count := selection.num_other_files:
        print(f"{count:,} files are not in {args.dataset} and are skipped (--dataset ntu120 uses them)")
    if args.dry_run:
        print("\n".join(dry_run_report(selection, args.dataset, missing.names)))
        return 0
    origin = provenance("data_gen/ntu_gendata.py", args, ("dataset", "data_path", "ignored_sample_path"))
    num_classes = DATASETS[args.dataset].num_classes
    store = StoreWriter(args.out_folder, args.dataset, num_classes, PROTOCOLS, origin, args.overwrite)
    store.left_out += selection.left_out
    store.warnings += [missing.warning] if missing.warning else []
    return prepare(store, read_clip, load_contents(selection.files), args)


def read_clip(file: RawFile) -> FileResult:
    """Read one skeleton file into a normalized clip. Raises ``BadFile`` if it is left out."""
    bodies, num_frames = read_skeleton(file.read())
    frames = normalize_clip(bodies)
    name = parse_ntu_name(file.name)
    result = FileResult([Clip(file.name, name.label, frames, ntu_splits(name))])
    if num_frames > len(frames):
        reason = f"{num_frames} frames, cut to the first {len(frames)}"
        result.notes.append(Issue(file.display_name, None, reason))
    return result


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
