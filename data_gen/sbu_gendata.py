"""Turn SBU Kinect Interaction (Yun et al., CVPR Workshops 2012) into one store for its five folds.

    python data_gen/sbu_gendata.py --data_path SBU            # -> data/sbu
    python data_gen/sbu_gendata.py --data_path SBU.zip --dry-run

Finds files like s01s02/01/001/skeleton_pos.txt (pair of people, action, repetition) under --data_path, in
folders and in zip archives. A line is a frame: its number, then 2 people x 15 joints x 3 coordinates, x and y
relative to the image and z in units of 1.28 m. They are converted to meters, and clips are normalized like
those of NTU RGB+D. The validation clips of a protocol, fold1 to fold5, are those of the pairs in FOLDS; the
literature reports the mean over the folds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen import command_line as flags
from data_gen.own_clips import prepare_clip
from data_gen.sources import Issue, RawFile, find_raw_files, first_reason
from data_gen.store_writer import Clip, FileResult, StoreWriter, check_target, prepare_files
from facts.datasets import DATASETS
from facts.skeletons import SBU
from utils.errors import BadFile, UserError, parse_errors, run_script

DATASET = "sbu"
FOLDS = {  # protocol -> pairs of people of the validation clips
    "fold1": ("s01s02", "s03s04", "s05s02", "s06s04"),
    "fold2": ("s02s03", "s02s07", "s03s05", "s05s03"),
    "fold3": ("s01s03", "s01s07", "s07s01", "s07s03"),
    "fold4": ("s02s01", "s02s06", "s03s02", "s03s06"),
    "fold5": ("s04s02", "s04s03", "s04s06", "s06s02", "s06s03"),
}
_NAME = re.compile(r"(?:.*/)?(s\d\ds\d\d)/0([1-8])/(\d{3})/skeleton_pos", re.ASCII)
SCALE, OFFSET = np.array([-2.56, -1.92, 1.28]), np.array([1.28, 0.96, 0.0])  # to meters, y upwards


def main(arguments: Sequence[str] | None = None) -> int:
    args = flags.parse_published(
        __doc__, DATASET, "folders or zip archives with the folders of the pairs", arguments
    )
    if not args.dry_run:
        check_target(args.out_folder, args.overwrite)
    info, origin = DATASETS[DATASET], flags.provenance("data_gen/sbu_gendata.py", args, ("data_path",))
    folder, overwrite = args.out_folder, args.overwrite
    store = StoreWriter(folder, DATASET, info.num_classes, info.protocols, origin, overwrite, SBU)
    files = find_raw_files(args.data_path, ".txt", left_out=store.left_out)
    files = select_files(files, store.left_out)
    return prepare_files(store, files, lambda file: parse_path(file.full_name).splits, read_clip, args)


def select_files(files: Sequence[RawFile], left_out: list[Issue]) -> list[RawFile]:
    """Return the files whose path is that of a clip; the others are added to ``left_out``.

    Raises ``UserError`` if there is none.
    """
    selected = []
    for file in files:
        try:
            parse_path(file.full_name)
            selected.append(file)
        except BadFile as error:
            left_out.append(Issue.of(error, file.display_name))
    if not selected:
        raise UserError(
            "no path is like s01s02/01/001/skeleton_pos.txt; set --data_path to the folder with the folders "
            f"of the pairs{first_reason(left_out)}"
        )
    return selected


def parse_path(path: str) -> Clip:
    """Return the clip, without its frames, of a path such as ``s01s02/01/001/skeleton_pos``.

    Raises ``BadFile`` if it is not the path of a clip.
    """
    match = _NAME.fullmatch(path)
    if match is None or not any(match[1] in pairs for pairs in FOLDS.values()):
        raise BadFile("the path is not of the form PAIR/ACTION/REPETITION/skeleton_pos.txt of a known pair")
    splits = {protocol: "val" if match[1] in pairs else "train" for protocol, pairs in FOLDS.items()}
    return Clip(f"{match[1]}_0{match[2]}_{match[3]}", int(match[2]) - 1, np.empty(0), splits)


def read_clip(file: RawFile) -> FileResult:
    """Read one file into a normalized clip. Raises ``BadFile`` if it is damaged."""
    data, clip = file.read(), parse_path(file.full_name)
    with parse_errors("cannot be read as a clip of SBU Kinect Interaction", BadFile):
        rows = np.array([line.split(",") for line in data.decode().split()], dtype=np.float64)
        joints = rows[:, 1:].reshape(len(rows), 2, SBU.num_joints, 3)
    clip.frames = np.moveaxis(joints * SCALE + OFFSET, 1, -1)  # T x V x 3 x M
    return prepare_clip(clip, file.display_name, skeleton=SBU)


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
