"""Make a small synthetic dataset in the file format of NTU RGB+D; no license is needed:

    python data_gen/synthetic/make_ntu.py
    python data_gen/ntu_gendata.py --data_path runs/synthetic --out_folder runs/synthetic/data/ntu60

The first command writes skeleton files SsssCcccPpppRrrrAaaa.skeleton, the second makes a store of them. Both
write to runs/ and not to data/, which may contain real files of the same names. The same --seed gives the
same files for any number of workers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_gen.command_line import RUNS_FOLDER, add_flag, add_number_flag, add_path_flag, add_workers_flag
from data_gen.output_folder import atomic_folder, check_folder, write_errors
from data_gen.parallel import ordered_map
from data_gen.synthetic.actions import ACTIONS
from data_gen.synthetic.body import NUM_JOINTS
from data_gen.synthetic.motion import DEFAULT_IDLE, Numbers, Variation, perform
from data_gen.synthetic.sensor import NUM_CAMERAS, observe, place_camera
from options.parser import COUNT, Parser, number
from utils.errors import UserError, run_script

# The fields of tracking, pixels and orientation are constant: no reader uses them.
_BODY_LINES = f"%d 0 0 0 0 0 0 0 0 2\n{NUM_JOINTS}\n" + NUM_JOINTS * "%.6f %.6f %.6f 0 0 0 0 0 0 0 0 2\n"


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_number, up_to_999, amount = partial(add_number_flag, parser), number(int, 1, 999), number(float, 0, 5)
    default = RUNS_FOLDER / "synthetic" / "nturgb+d_skeletons"
    add_path_flag(parser, "out_folder", default=default, help="default: runs/synthetic/nturgb+d_skeletons")
    add_flag(parser, "overwrite", action="store_true", help="replace the skeleton files in --out_folder")
    add_number("seed", COUNT, 0, "random seed")
    add_number("subjects", up_to_999, 20, "number of people")
    classes = {"type": int, "choices": ACTIONS, "default": list(ACTIONS), "nargs": "+", "metavar": "A"}
    add_flag(parser, "actions", **classes, help=f"NTU classes, of {list(ACTIONS)} (default: all)")
    add_number("setups", up_to_999, 4, "number of setups, which differ in camera height and distance")
    add_number("repetitions", up_to_999, 2, "repetitions; odd ones face the left camera, even ones the right")
    add_number("cameras", number(int, 1, NUM_CAMERAS), NUM_CAMERAS, f"number of cameras, 1 to {NUM_CAMERAS}")
    add_flag(parser, "in_turn", action="store_true", help="record each repetition with one camera, in turn")
    add_number("difficulty", amount, 1.0, "sway, idle gestures, style variation and sensor noise, 0 to 5")
    add_number("settle", amount, 1.0, "initial body misalignment, which affects normalization, 0 to 5")
    add_number("idle", amount, DEFAULT_IDLE, "maximum idle time before and after the action, in seconds each")
    add_number("tempo", number(float, 0, 2), 0.0, "clips are faster or slower by up to this fraction, 0 to 2")
    add_number("turn", number(float, 0, 180), 0.0, "initial turn of people in degrees at most, 0 to 180")
    add_number("body", number(float, 0, 1), 0.0, "height and limb lengths differ by up to this fraction more")
    add_workers_flag(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    target = args.out_folder.absolute()
    check = partial(check_target, target, args.overwrite)
    with write_errors(target), atomic_folder(target, check) as folder:
        write = partial(write_skeleton_files, folder=folder, args=args)
        count = sum(ordered_map(write, list_performances(args), args.workers))
    print(f"{target}: {count:,} clips")


def check_target(folder: Path, overwrite: bool) -> None:
    """Raise ``UserError`` unless ``folder`` is empty, or contains only skeleton files to overwrite."""
    check_folder(folder)
    content = sorted(folder.iterdir()) if folder.exists() else []
    others = [path.name for path in content if path.suffix != ".skeleton" or path.is_dir()]
    if others:
        raise UserError(f"{folder} contains other files ({others[0]}); choose another --out_folder")
    if content and not overwrite:
        raise UserError(f"{folder} contains skeleton files; add --overwrite or choose another --out_folder")


def list_performances(args: argparse.Namespace) -> Iterator[Numbers]:
    """Yield setup, subject, repetition and action of all performances.

    A subject visits two adjacent setups, one odd and one even, so that every protocol has both splits.
    """
    for subject in range(1, args.subjects + 1):
        for action in sorted(set(args.actions)):
            is_second_half = (list(ACTIONS).index(action) + (subject - 1) // args.setups) % 2
            setup = (subject - 1 + is_second_half) % args.setups + 1
            for repetition in range(1, args.repetitions + 1):
                yield setup, subject, repetition, action


def write_skeleton_files(numbers: Numbers, folder: Path, args: argparse.Namespace) -> int:
    """Write one performance as its cameras record it; return the number of files."""
    setup, subject, repetition, action = numbers
    variation = Variation(args.difficulty, args.settle, args.idle, args.tempo, args.turn, args.body)
    people = perform(args.seed, numbers, variation)
    cameras = [(repetition - 1) % args.cameras + 1] if args.in_turn else range(1, args.cameras + 1)
    for camera in cameras:
        rng = np.random.default_rng([args.seed, *numbers, camera])
        clip = observe(people, place_camera(args.seed, setup, camera), rng, args.difficulty)
        name = f"S{setup:03d}C{camera:03d}P{subject:03d}R{repetition:03d}A{action:03d}.skeleton"
        (folder / name).write_text(skeleton_text(clip), encoding="ascii")
    return len(cameras)


def skeleton_text(clip: np.ndarray) -> str:
    """Return the content of a file: all numbers are formatted at once, by one long format string."""
    found = np.isfinite(clip[:, :, 0, 0])  # (T, bodies)
    frames = [f"{count}\n{count * _BODY_LINES}" for count in found.sum(axis=1).tolist()]
    body_ids = 1 + found.nonzero()[1]
    numbers = np.column_stack([body_ids, clip[found].reshape(len(body_ids), -1)])
    return f"{len(frames)}\n{''.join(frames)}" % tuple(numbers.ravel().tolist())


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
