"""Make a small synthetic dataset in the file format of PKU-MMD; no license is needed:

    python data_gen/synthetic/make_pku.py
    python data_gen/pku_gendata.py --part 1 --data_path runs/synthetic_pku/skeletons \\
        --label_path runs/synthetic_pku/labels --split_path runs/synthetic_pku/splits

A video contains several actions; between them the person moves to the next pose. Three cameras record every
video. The same --seed gives the same files for any number of workers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_gen.command_line import RUNS_FOLDER, add_flag, add_number_flag, add_path_flag, add_workers_flag
from data_gen.output_folder import atomic_folder, check_folder, write_errors
from data_gen.parallel import ordered_map
from data_gen.synthetic.performance import Performance, Variation, perform
from data_gen.synthetic.sensor import observe, place_camera
from data_gen.synthetic.video import PKU_CLASS, join_clips, two_bodies
from options.parser import COUNT, NON_NEGATIVE, POSITIVE_INT, Parser
from utils.errors import UserError, run_script

CAMERAS = {"L": 2, "M": 1, "R": 3}  # letter in the name of a video -> number of the synthetic camera
TRAIN_CAMERAS = "MR"
TEST_EVERY = 4  # every fourth subject is in the test set
SHORTEST_PAUSE, LONGEST_PAUSE = 15, 45  # frames between two actions


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_number = partial(add_number_flag, parser)
    add_flag(parser, "part", choices=("1", "2"), default="1", help="naming of the split files (default: 1)")
    default_folder = RUNS_FOLDER / "synthetic_pku"
    default_help = "a folder that is empty or does not exist yet (default: runs/synthetic_pku)"
    add_path_flag(parser, "out_folder", default=default_folder, help=default_help)
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
    with write_errors(target), atomic_folder(target, partial(check_target, target)) as folder:
        for name in ("skeletons", "labels", "splits"):
            (folder / name).mkdir()
        written = ordered_map(partial(write_video, folder=folder, args=args), videos, args.workers)
        for _ in tqdm(written, total=len(videos), unit="video", disable=None):
            pass
        write_splits(folder / "splits", videos, args.part)
    print(
        f"{args.out_folder}: {len(videos)} videos of {args.actions_per_video} actions, each from "
        f"{len(CAMERAS)} cameras"
    )
    return 0


def check_target(folder: Path) -> None:
    """Raise ``UserError`` if ``folder`` exists and is not empty, or cannot be written."""
    check_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists; remove it or choose another --out_folder")


def subject_of(video: int) -> int:
    return (video + 1) // 2


def video_name(video: int, letter: str) -> str:
    return f"{video:04d}-{letter}"


def write_video(video: int, folder: Path, args: argparse.Namespace) -> None:
    """Write the skeleton and label files of one video for all cameras."""
    subject, repetition, setup = subject_of(video), 2 - video % 2, 1 + video % 3
    count = args.actions_per_video
    rng = np.random.default_rng([args.seed, video])
    actions = rng.choice(list(PKU_CLASS), count, replace=count > len(PKU_CLASS)).tolist()
    pauses = rng.integers(SHORTEST_PAUSE, LONGEST_PAUSE, count + 1).tolist()
    motions = [
        perform(args.seed, Performance(setup, subject, repetition, action), Variation(args.difficulty))
        for action in actions
    ]
    for letter, camera_number in CAMERAS.items():
        camera = place_camera(args.seed, setup, camera_number)
        clips = [two_bodies(observe(people, camera, rng, args.difficulty)) for people in motions]
        frames, starts = join_clips(clips, pauses)
        labels = [
            f"{PKU_CLASS[action]},{start},{start + len(clip)},2\n"
            for action, start, clip in zip(actions, starts, clips)
        ]
        name = f"{video_name(video, letter)}.txt"
        (folder / "labels" / name).write_text("".join(labels))
        np.savetxt(folder / "skeletons" / name, frames.reshape(len(frames), -1), fmt="%.6f")


def write_splits(folder: Path, videos: Sequence[int], part: str) -> None:
    """Write the split files of both protocols."""
    is_training = {
        "subject": lambda video, letter: subject_of(video) % TEST_EVERY != 0,
        "view": lambda video, letter: letter in TRAIN_CAMERAS,
    }
    for word, in_training in is_training.items():
        train, test = [], []
        for video in videos:
            for letter in CAMERAS:
                split = train if in_training(video, letter) else test
                split.append(video_name(video, letter))
        name = f"cross-{word}.txt" if part == "1" else f"cross_{word}_v2.txt"
        (folder / name).write_text(
            f"Training videos:\n{', '.join(train)}\nValidation videos:\n{', '.join(test)}\n"
        )


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
