"""Make a small synthetic dataset in the file format of PKU-MMD; no license is needed:

    python data_gen/synthetic/make_pku.py
    python data_gen/pku_gendata.py --part 1 --data_path runs/synthetic_pku/skeletons \\
        --label_path runs/synthetic_pku/labels --split_path runs/synthetic_pku/splits

Three cameras record every video. The same --seed gives the same files for any number of workers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_gen.command_line import RUNS_FOLDER, add_flag, add_number_flag, add_path_flag, add_workers_flag
from data_gen.output_folder import atomic_folder, write_errors
from data_gen.parallel import ordered_map
from data_gen.synthetic.actions import ACTIONS
from data_gen.synthetic.make_ntu import check_target
from data_gen.synthetic.motion import Variation, perform
from data_gen.synthetic.sensor import observe, place_camera
from options.parser import COUNT, NON_NEGATIVE, POSITIVE_INT, Parser
from utils.errors import run_script

CAMERAS = {"L": 2, "M": 1, "R": 3}  # letter in the name of a video -> number of the synthetic camera


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_number = partial(add_number_flag, parser)
    add_flag(parser, "part", choices=("1", "2"), default="1", help="naming of the split files (default: 1)")
    text = "a folder that is empty or does not exist yet (default: runs/synthetic_pku)"
    add_path_flag(parser, "out_folder", default=RUNS_FOLDER / "synthetic_pku", help=text)
    add_number("seed", COUNT, 0, "random seed")
    add_number("subjects", POSITIVE_INT, 8, "number of people, with two videos each")
    add_number("actions_per_video", POSITIVE_INT, 8, "actions per video")
    add_number("difficulty", NON_NEGATIVE, 1.0, "amount of sway, style variation and sensor noise; 0 is none")
    add_workers_flag(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    target = args.out_folder.absolute()
    videos = range(1, 2 * args.subjects + 1)
    check = partial(check_target, target, overwrite=False)
    with write_errors(target), atomic_folder(target, check) as folder:
        for name in ("skeletons", "labels", "splits"):
            (folder / name).mkdir()
        list(ordered_map(partial(write_video, folder=folder, args=args), videos, args.workers))
        write_splits(folder / "splits", videos, args.part)
    print(f"{target}: {len(videos)} videos of {args.actions_per_video} actions from {len(CAMERAS)} cameras")
    return 0


def write_video(video: int, folder: Path, args: argparse.Namespace) -> None:
    """Write the skeleton and label files of one video for all cameras."""
    rng = np.random.default_rng([args.seed, video])
    count, setup, variation = args.actions_per_video, 1 + video % 3, Variation(args.difficulty)
    actions = rng.choice(list(ACTIONS), count, replace=count > len(ACTIONS)).tolist()
    pauses = rng.integers(15, 45, count + 1)  # frames between two actions
    numbers = setup, (video + 1) // 2, 2 - video % 2  # setup, subject, repetition
    motions = [perform(args.seed, (*numbers, action), variation) for action in actions]
    for letter, number in CAMERAS.items():
        camera = place_camera(args.seed, setup, number)
        clips = [np.nan_to_num(observe(people, camera, rng, args.difficulty)) for people in motions]
        frames, starts = join_clips(clips, pauses)
        classes, ends = [ACTIONS[action].pku_class for action in actions], starts + list(map(len, clips))
        labels = np.stack([classes, starts, ends, np.full(count, 2)], axis=1)
        name = f"{video:04d}-{letter}.txt"
        np.savetxt(folder / "labels" / name, labels, fmt="%d", delimiter=",")
        np.savetxt(folder / "skeletons" / name, frames.reshape(len(frames), -1), fmt="%.6f")


def join_clips(clips: list[np.ndarray], pauses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join clips to a video with pauses before, between and after; also return their starts.

    Clips are (T, bodies, 25, 3), the video is (T, 2, 25, 3), zero without a second body. In a pause the first
    body moves linearly from the last pose to the next one.
    """
    joined = []
    for before, pause, after in zip([clips[0][:1], *clips], pauses, [*clips, clips[-1][-1:]]):
        joined += [np.linspace(before[-1, :1], after[0, :1], pause), after]
    two_bodies = [np.pad(part, ((0, 0), (0, 2 - part.shape[1]), (0, 0), (0, 0))) for part in joined[:-1]]
    return np.concatenate(two_bodies), np.cumsum(list(map(len, joined)))[:-2:2]


def write_splits(folder: Path, videos: Sequence[int], part: str) -> None:
    """Write the split files: every fourth subject and the left camera are in the test sets."""
    names = [f"{video:04d}-{letter}" for video in videos for letter in CAMERAS]
    tests = {
        "subject": [name for name in names if int(name[:4]) % 8 in (7, 0)],
        "view": [name for name in names if name.endswith("L")],
    }
    for protocol, test in tests.items():
        train = ", ".join(name for name in names if name not in test)
        name = f"cross-{protocol}.txt" if part == "1" else f"cross_{protocol}_v2.txt"
        (folder / name).write_text(f"Training videos:\n{train}\nValidation videos:\n{', '.join(test)}\n")


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
