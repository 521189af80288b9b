"""Make a small synthetic PKU-MMD, no licence needed: long videos of several actions.

    python data_gen/synthetic_pku_gendata.py
    python data_gen/pku_gendata.py --part 1 --data_path runs/synthetic_pku/skeletons \\
        --label_path runs/synthetic_pku/labels --split_path runs/synthetic_pku/splits

Three cameras record every video; between the actions the person moves to the next pose. The same
--seed gives the same files, whatever the number of workers.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from data_gen.command_line import RUNS_FOLDER, add_flag, positive
from data_gen.parallel import default_workers, ordered_map
from data_gen.synthetic_performance import perform
from data_gen.synthetic_sensor import Recording, observe, place_camera
from options.datasets import NUM_COORDINATES, NUM_JOINTS, NUM_PEOPLE
from options.errors import UserError, run_script

# PKU-MMD's class of an action, by NTU's class
PKU_CLASS = {1: 8, 6: 22, 7: 41, 8: 33, 9: 34, 10: 6, 20: 28, 22: 5, 23: 13, 24: 19, 27: 17,
             28: 20, 31: 25, 38: 32, 50: 26, 58: 14}
CAMERAS = {"L": 2, "M": 1, "R": 3}  # letter in a video's name: number of the synthetic camera
TRAIN_CAMERAS = "MR"
TEST_EVERY = 4  # each fourth subject is in the test set
SHORTEST_PAUSE, LONGEST_PAUSE = 15, 45  # frames between two actions


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("1", "2"), default="1",
                        help="how the split files are named")
    add_flag(parser, "out_folder", type=Path, default=RUNS_FOLDER / "synthetic_pku",
             help="a folder that does not exist yet (default: runs/synthetic_pku)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other people and clips")
    parser.add_argument("--subjects", type=positive, default=8, help="people, two videos each")
    add_flag(parser, "actions_per_video", type=positive, default=8, help="as it says")
    parser.add_argument("--difficulty", type=float, default=1.0,
                        help="scales sway, personal style and sensor noise; 0 is clean")
    parser.add_argument("--workers", type=positive, default=default_workers(), help="processes")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    if args.out_folder.exists():
        raise UserError(f"{args.out_folder} exists: remove it or give another --out_folder")
    args.out_folder.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".synthetic_pku.", dir=args.out_folder.parent))
    try:
        for name in ("skeletons", "labels", "splits"):
            (folder / name).mkdir()
        numbers = range(1, 2 * args.subjects + 1)
        write = functools.partial(write_video, folder=folder, seed=args.seed,
                                  actions=args.actions_per_video, difficulty=args.difficulty)
        list(tqdm(ordered_map(write, numbers, args.workers), total=len(numbers), unit="video",
                  disable=None))  # the videos are written, nothing comes back
        write_splits(folder / "splits", numbers, args.part)
        folder.chmod(0o755)
        folder.rename(args.out_folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{args.out_folder}: {len(numbers)} videos of {args.actions_per_video} actions, "
          f"each from {len(CAMERAS)} cameras")
    return 0


def subject_of(number: int) -> int:
    return (number + 1) // 2


def video_name(number: int, letter: str) -> str:
    return f"{number:04d}-{letter}"


def write_video(number: int, folder: Path, seed: int, actions: int, difficulty: float) -> None:
    """The skeleton and label files of one video, as all cameras see it."""
    subject, repetition, setup = subject_of(number), 2 - number % 2, 1 + number % 3
    rng = np.random.default_rng([seed, number])
    chosen = rng.choice(list(PKU_CLASS), actions, replace=actions > len(PKU_CLASS)).tolist()
    pauses = rng.integers(SHORTEST_PAUSE, LONGEST_PAUSE, actions + 1).tolist()
    performances = [perform(seed, setup, subject, repetition, action, difficulty)
                    for action in chosen]
    for letter, camera_number in CAMERAS.items():
        camera = place_camera(seed, setup, camera_number)
        pieces = [two_bodies(observe(people, camera, rng, difficulty)) for people in performances]
        frames, starts = join(pieces, pauses)
        rows = [f"{PKU_CLASS[action]},{start},{start + len(piece)},2\n"
                for action, start, piece in zip(chosen, starts, pieces)]
        name = f"{video_name(number, letter)}.txt"
        (folder / "labels" / name).write_text("".join(rows))
        np.savetxt(folder / "skeletons" / name, frames.reshape(len(frames), -1), fmt="%.6f")


def two_bodies(recording: Recording) -> np.ndarray:
    """(frames, 2 bodies, 25, 3) in metres: the first two listed that are seen, zeros for none."""
    frames = np.zeros((len(recording.order), NUM_PEOPLE, NUM_JOINTS, NUM_COORDINATES))
    for frame, order in enumerate(recording.order):
        seen = [recording.bodies[i] for i in order if recording.bodies[i].present[frame]]
        for slot, body in enumerate(seen[:NUM_PEOPLE]):
            frames[frame, slot] = body.positions[frame]
    return frames


def join(pieces: list[np.ndarray], pauses: list[int]) -> tuple[np.ndarray, list[int]]:
    """One video with a pause before, between and after the pieces, and where each piece starts.

    In a pause the first body goes straight from the last pose to the next one.
    """
    joined, starts, length = [], [], 0
    for i, pause in enumerate(pauses):
        before, after = pieces[max(i - 1, 0)][-1], pieces[min(i, len(pieces) - 1)][0]
        share = np.linspace(0, 1, pause)[:, None, None]
        filler = np.zeros((pause, *before.shape))
        filler[:, 0] = before[0] * (1 - share) + after[0] * share
        joined.append(filler)
        length += pause
        if i < len(pieces):
            joined.append(pieces[i])
            starts.append(length)
            length += len(pieces[i])
    return np.concatenate(joined), starts


def write_splits(folder: Path, numbers: Sequence[int], part: str) -> None:
    sides = {"subject": lambda number, letter: subject_of(number) % TEST_EVERY != 0,
             "view": lambda number, letter: letter in TRAIN_CAMERAS}
    for word, in_training in sides.items():
        train, test = [], []
        for number in numbers:
            for letter in CAMERAS:
                side = train if in_training(number, letter) else test
                side.append(video_name(number, letter))
        name = f"cross-{word}.txt" if part == "1" else f"cross_{word}_v2.txt"
        (folder / name).write_text(f"Training videos:\n{', '.join(train)}\n"
                                   f"Validation videos:\n{', '.join(test)}\n")


if __name__ == "__main__":
    run_script(main, saves_memory="--workers")
