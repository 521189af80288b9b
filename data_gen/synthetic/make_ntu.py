"""Make a small synthetic dataset in the file format of NTU RGB+D; no license is needed:

    python data_gen/synthetic/make_ntu.py
    python data_gen/ntu_gendata.py --data_path runs/synthetic --out_folder runs/synthetic/data/ntu60

The first command writes skeleton files SsssCcccPpppRrrrAaaa.skeleton, the second makes a store of them. Both
write to runs/ and not to data/, which may contain real files of the same names. Three cameras record every
performance, which makes cross_view the easier protocol. A subject performs half of the actions in one setup
and half in another. The same --seed gives the same files.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

# The matrices are 3 x 3: threads inside numpy would only slow down the worker processes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_gen.command_line import RUNS_FOLDER, add_flag, add_number_flag, add_path_flag, add_workers_flag
from data_gen.ntu_files import PROTOCOLS
from data_gen.output_folder import atomic_folder, check_folder, write_errors
from data_gen.parallel import ordered_map
from data_gen.synthetic.actions import ACTIONS
from data_gen.synthetic.performance import DEFAULT_IDLE, Performance, Variation, perform
from data_gen.synthetic.sensor import NUM_CAMERAS, observe, place_camera
from data_gen.synthetic.skeleton_text import skeleton_text
from facts.datasets import ntu_splits, parse_ntu_name
from options.parser import COUNT, Parser, number
from utils.errors import UserError, run_script


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_number = partial(add_number_flag, parser)
    up_to_999, amount = number(int, 1, 999), number(float, 0, 5)
    default_folder = RUNS_FOLDER / "synthetic" / "nturgb+d_skeletons"
    default_help = "folder for the skeleton files (default: runs/synthetic/nturgb+d_skeletons)"
    add_path_flag(parser, "out_folder", default=default_folder, help=default_help)
    add_flag(parser, "overwrite", action="store_true", help="replace the skeleton files in --out_folder")
    add_number("seed", COUNT, 0, "random seed")
    add_number("subjects", up_to_999, 20, "number of people")
    add_flag(
        parser,
        "actions",
        type=int,
        nargs="+",
        choices=ACTIONS,
        default=list(ACTIONS),
        metavar="A",
        help=f"NTU class numbers, of {' '.join(map(str, ACTIONS))} (default: all)",
    )
    add_number("setups", up_to_999, 4, "number of setups, which differ in camera height and distance")
    add_number("repetitions", up_to_999, 2, "repetitions; odd ones face the left camera, even ones the right")
    add_number("cameras", number(int, 1, NUM_CAMERAS), NUM_CAMERAS, f"number of cameras, 1 to {NUM_CAMERAS}")
    in_turn_help = "record each repetition with one camera, in turn, instead of all cameras"
    add_flag(parser, "in_turn", action="store_true", help=in_turn_help)
    add_number("difficulty", amount, 1.0, "sway, idle gestures, style variation and sensor noise, 0 to 5")
    add_number("settle", amount, 1.0, "initial body misalignment, which affects normalization, 0 to 5")
    add_number("idle", amount, DEFAULT_IDLE, "maximum idle time before and after the action, in seconds each")
    add_number("tempo", number(float, 0, 2), 0.0, "clips are faster or slower by up to this fraction, 0 to 2")
    turn_help = "maximum angle in degrees by which people are turned in the first frame, 0 to 180"
    add_number("turn", number(float, 0, 180), 0.0, turn_help)
    body_help = "body height and limb lengths differ by up to this additional fraction, 0 to 1"
    add_number("body", number(float, 0, 1), 0.0, body_help)
    add_workers_flag(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    start = time.perf_counter()
    target = args.out_folder.absolute()
    performances = list(list_performances(args))
    check = partial(check_target, target, args.overwrite)
    with write_errors(target), atomic_folder(target, check) as folder:
        write = partial(write_skeleton_files, folder=folder, args=args)
        sizes = ordered_map(write, performances, args.workers)
        size = sum(tqdm(sizes, total=len(performances), unit="performance", disable=None))
        names = [path.stem for path in folder.iterdir()]
    print(f"{len(names)} clips ({size / 1e6:.0f} MB) in {time.perf_counter() - start:.1f} s: {target}")
    for protocol in PROTOCOLS:
        splits = [ntu_splits(parse_ntu_name(name))[protocol] for name in names]
        print(f"  {protocol}: {splits.count('train')} train, {splits.count('val')} val")


def check_target(folder: Path, overwrite: bool) -> None:
    """Raise ``UserError`` unless ``folder`` is empty, or contains only skeleton files to overwrite."""
    check_folder(folder)
    content = sorted(folder.iterdir()) if folder.exists() else []
    for path in content:
        if path.suffix != ".skeleton" or path.is_dir():
            raise UserError(f"{folder} contains other files ({path.name}); choose another --out_folder")
    if content and not overwrite:
        raise UserError(
            f"{folder} already contains {len(content)} .skeleton files; add --overwrite to replace them, or "
            "choose another --out_folder"
        )


def list_performances(args: argparse.Namespace) -> Iterator[Performance]:
    """Yield all performances of the dataset.

    A subject visits two adjacent setups, one odd and one even, so that every protocol has both splits. The
    half of the actions that comes first alternates between subjects.
    """
    index_of = {action: index for index, action in enumerate(ACTIONS)}
    for subject in range(1, args.subjects + 1):
        for action in sorted(set(args.actions)):
            is_second_half = (index_of[action] + (subject - 1) // args.setups) % 2
            setup = (subject - 1 + is_second_half) % args.setups + 1
            for repetition in range(1, args.repetitions + 1):
                yield Performance(setup, subject, repetition, action)


def write_skeleton_files(performance: Performance, folder: Path, args: argparse.Namespace) -> int:
    """Write one performance as its cameras record it; return the number of bytes."""
    setup, subject, repetition, action = performance
    variation = Variation(args.difficulty, args.settle, args.idle, args.tempo, args.turn, args.body)
    people = perform(args.seed, performance, variation)
    cameras = [(repetition - 1) % args.cameras + 1] if args.in_turn else range(1, args.cameras + 1)
    size = 0
    for camera in cameras:
        rng = np.random.default_rng([args.seed, *performance, camera])
        clip = observe(people, place_camera(args.seed, setup, camera), rng, args.difficulty)
        name = f"S{setup:03d}C{camera:03d}P{subject:03d}R{repetition:03d}A{action:03d}.skeleton"
        size += (folder / name).write_bytes(skeleton_text(clip, rng).encode("ascii"))
    return size


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
