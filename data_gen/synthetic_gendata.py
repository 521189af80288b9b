"""Make a small synthetic data set in NTU RGB+D's own file format, no licence needed:

    python data_gen/synthetic_gendata.py
    python data_gen/ntu_gendata.py --data_path runs/synthetic --out_folder runs/synthetic/data/ntu60

writes ``SsssCcccPpppRrrrAaaa.skeleton`` files, and a store of them. They stay out of ``data/``,
where real files of the same names may lie. Three cameras record
every performance at once, so cross_view is the easy protocol here. A subject does half of the
actions in one setup, half in another. The same ``--seed`` gives the same files.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, Sequence

# the matrices are 3 x 3: threads inside numpy only get in the way of the worker processes
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from data_gen.command_line import RUNS_FOLDER  # noqa: E402
from data_gen.parallel import default_workers, ordered_map  # noqa: E402
from data_gen.synthetic_actions import ACTIONS  # noqa: E402
from data_gen.synthetic_file import skeleton_text  # noqa: E402
from data_gen.synthetic_performance import perform  # noqa: E402
from data_gen.synthetic_sensor import NUM_CAMERAS, observe, place_camera  # noqa: E402
from options.datasets import ntu_splits, parse_ntu_name  # noqa: E402
from options.errors import UserError, run_script  # noqa: E402


def parse_flags(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make a small synthetic data set in NTU RGB+D's own file format.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out_folder", "--out-folder", type=Path,
                        default=RUNS_FOLDER / "synthetic" / "nturgb+d_skeletons",
                        help="where the .skeleton files go")
    parser.add_argument("--overwrite", action="store_true", help="replace .skeleton files")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other people and clips")
    parser.add_argument("--subjects", type=int, default=20, help="people, numbered from 1")
    parser.add_argument("--actions", type=int, nargs="+", default=list(ACTIONS), metavar="A",
                        help="NTU's class numbers, from 1")
    parser.add_argument("--setups", type=int, default=4, help="rooms: camera heights, distances")
    parser.add_argument("--repetitions", type=int, default=2,
                        help="odd ones face the left camera, even ones the right")
    parser.add_argument("--cameras", type=int, default=NUM_CAMERAS, help="C001, C002, C003")
    parser.add_argument("--in-turn", action="store_true",
                        help="each repetition is recorded by one camera, in turn, not by all")
    parser.add_argument("--difficulty", type=float, default=1.0,
                        help="of sway, idle gestures, style and sensor noise; 0 is clean")
    parser.add_argument("--settle", type=float, default=1.0,
                        help="how far from square and upright people are in the first frames, by "
                        "which the normalisation turns the whole clip; 0 is not at all")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes")
    flags = parser.parse_args(arguments)
    for name in ("subjects", "setups", "repetitions", "cameras", "workers"):
        most = NUM_CAMERAS if name == "cameras" else 999
        if not 1 <= getattr(flags, name) <= most:
            raise UserError(f"--{name} {getattr(flags, name)}: give a number from 1 to {most}.")
    if unknown := [action for action in flags.actions if action not in ACTIONS]:
        raise UserError(f"--actions {unknown[0]}: there is no synthetic action of this number; "
                        f"choose from {' '.join(map(str, ACTIONS))}.")
    if flags.seed < 0:
        raise UserError(f"--seed {flags.seed}: give 0 or more.")
    for name in ("difficulty", "settle"):
        if not 0 <= getattr(flags, name) <= 5:
            raise UserError(f"--{name} {getattr(flags, name)}: give a number from 0 to 5.")
    return flags


def performances(flags: argparse.Namespace) -> Iterator[tuple[int, int, int, int]]:
    """(setup, subject, repetition, action) of everything that is performed.

    A subject visits two neighbouring setups, one odd and one even, so that every split has both
    parts; which half of the actions comes first alternates over the subjects.
    """
    place = {action: index for index, action in enumerate(ACTIONS)}
    for subject in range(1, flags.subjects + 1):
        for action in sorted(set(flags.actions)):
            second = (place[action] + (subject - 1) // flags.setups) % 2
            setup = (subject - 1 + second) % flags.setups + 1
            for repetition in range(1, flags.repetitions + 1):
                yield setup, subject, repetition, action


def write_clips(key: tuple[int, int, int, int], folder: Path, seed: int, cameras: int,
                in_turn: bool, difficulty: float, settle: float) -> int:
    """One performance as all cameras see it, or one of them; returns the bytes written."""
    setup, subject, repetition, action = key
    people = perform(seed, *key, difficulty, settle)
    written = 0
    turn = (repetition - 1) % cameras + 1
    for camera in [turn] if in_turn else range(1, cameras + 1):
        rng = np.random.default_rng([seed, *key, camera])
        recording = observe(people, place_camera(seed, setup, camera), rng, difficulty)
        text = skeleton_text(recording, rng).encode("ascii")
        name = f"S{setup:03d}C{camera:03d}P{subject:03d}R{repetition:03d}A{action:03d}.skeleton"
        written += (folder / name).write_bytes(text)
    return written


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse to touch anything but an empty folder, or .skeleton files with ``--overwrite``."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder as --out_folder.")
    there = list(folder.iterdir()) if folder.exists() else []
    if other := [path.name for path in there if path.suffix != ".skeleton" or path.is_dir()]:
        raise UserError(f"{folder} holds other things ({other[0]}): choose another --out_folder.")
    if there and not overwrite:
        raise UserError(f"{folder} already holds {len(there)} .skeleton files: add --overwrite to "
                        "replace them, or choose another --out_folder.")


def write_all(target: Path, flags: argparse.Namespace) -> tuple[list[str], int]:
    """Write every clip to a folder beside ``target``, then rename it; clip names and bytes."""
    keys = list(performances(flags))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        write = functools.partial(write_clips, folder=temporary, seed=flags.seed,
                                  cameras=flags.cameras, in_turn=flags.in_turn,
                                  difficulty=flags.difficulty,
                                  settle=flags.settle)
        written = sum(tqdm(ordered_map(write, keys, flags.workers), total=len(keys),
                           unit="performance", disable=None))
        names = [path.stem for path in temporary.iterdir()]
        temporary.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return names, written


def main(arguments: Sequence[str] | None = None) -> None:
    flags = parse_flags(arguments)
    target, start = flags.out_folder.resolve(), time.time()
    check_folder(target, flags.overwrite)
    try:
        names, written = write_all(target, flags)
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error.strerror}; free some space, or choose "
                        "another --out_folder.") from error
    print(f"{len(names)} clips ({written / 1e6:.0f} MB) in {time.time() - start:.1f} s: {target}")
    for protocol in ("cross_subject", "cross_view", "cross_setup"):
        parts = [ntu_splits(parse_ntu_name(name))[protocol] for name in names]
        print(f"  {protocol}: {parts.count('train')} train, {parts.count('val')} val")


if __name__ == "__main__":
    run_script(main, saves_memory="--workers")
