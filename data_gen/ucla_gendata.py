"""Turn NW-UCLA (Wang et al., 2014), as distributed with CTR-GCN, into one store for all protocols.

    python data_gen/ucla_gendata.py --data_path NW-UCLA/all_sqe            # -> data/ucla
    python data_gen/ucla_gendata.py --data_path all_sqe.zip --dry-run

Finds files like a01_s01_e00_v01.json (action, subject, repetition, view) under --data_path, in folders and in
zip archives. A file contains {"file_name", "skeletons": frames x 20 joints x 3, "label": 1 to 10}, with the
joints of Kinect v1. Clips are normalized like those of NTU RGB+D. The store (dataset/store_format.py) is
written atomically. Its store.json lists every file that was left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.command_line import DATA_FOLDER, add_flag, add_path_flag, add_store_flags, provenance
from data_gen.own_clips import frames_of_array
from data_gen.sources import BadFile, Issue, RawFile, find_raw_files, first_reason, load_contents
from data_gen.store_writer import (
    Clip,
    FileResult,
    StoreWriter,
    check_target,
    count_splits,
    fill_store,
    preview,
    report,
)
from facts.datasets import DATASETS
from facts.skeletons import KINECT_V1
from options.parser import Parser
from utils.errors import UserError, run_script

DATASET = "ucla"
SUFFIX = ".json"
ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)  # in file names; classes 0 to 9
VAL_VIEWS = {"cross_view": 3, "view1": 1, "view2": 2}  # protocol -> view of the validation clips
FILES_PER_TASK = 16
_NAME = re.compile(r"a(\d{2})_s(\d{2})_e(\d{2})_v(\d{2})", re.ASCII)


class UclaName(NamedTuple):
    """The numbers in a file name ``aAA_sSS_eEE_vVV``."""

    action: int
    subject: int
    repetition: int
    view: int


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_path_flag(
        parser, "data_path", nargs="+", required=True, help="folders or zip archives with the .json files"
    )
    add_flag(
        parser, "dry_run", action="store_true", help="scan file names only; print found and published counts"
    )
    add_store_flags(parser, "data/ucla")
    args = parser.parse_args(arguments)
    args.out_folder = args.out_folder or DATA_FOLDER / DATASET
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    start = time.perf_counter()
    if not args.dry_run:
        check_target(args.out_folder, args.overwrite)
    left_out: list[Issue] = []
    files = select_files(find_raw_files(args.data_path, SUFFIX, left_out=left_out), left_out)
    protocols = DATASETS[DATASET].protocols
    if args.dry_run:
        counts = count_splits(protocols, (splits_of(parse_name(file.name)) for file in files))
        print("\n".join(preview(DATASET, counts, left_out)))
        return 0
    origin = provenance("data_gen/ucla_gendata.py", args, ("data_path",))
    num_classes = DATASETS[DATASET].num_classes
    store = StoreWriter(args.out_folder, DATASET, num_classes, protocols, origin, args.overwrite, KINECT_V1)
    store.left_out += left_out
    fill_store(store, read_clip, load_contents(files), args.workers, args.on_error, FILES_PER_TASK)
    return report(store, time.perf_counter() - start)


def select_files(files: Sequence[RawFile], left_out: list[Issue]) -> list[RawFile]:
    """Return the files whose name is that of a clip, each name once; the others are added to ``left_out``.

    Raises:
        UserError: no file has such a name.
    """
    selected: list[RawFile] = []
    for file in files:
        try:
            parse_name(file.name)
        except BadFile as error:
            left_out.append(Issue.of(error, file.display_name))
            continue
        if selected and selected[-1].name == file.name:
            reason = f"the same name as {selected[-1].display_name}, which is used"
            left_out.append(Issue(file.display_name, None, reason, failed_clips=0))
        else:
            selected.append(file)
    if not selected:
        raise UserError(
            "no file is named like a01_s01_e00_v01.json; set --data_path to the folder or zip archive of the "
            f"dataset{first_reason(left_out)}"
        )
    return selected


def parse_name(name: str) -> UclaName:
    """Parse ``a01_s01_e00_v01``. Raises ``BadFile`` if it is not the name of a clip."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise BadFile("the name is not of the form aAA_sSS_eEE_vVV")
    parsed = UclaName(*map(int, match.groups()))
    if parsed.action not in ACTIONS:
        raise BadFile(f"action {parsed.action} is not one of {', '.join(map(str, ACTIONS))}")
    if parsed.view not in VAL_VIEWS.values():
        raise BadFile(f"view {parsed.view} is not one of 1, 2, 3")
    return parsed


def splits_of(name: UclaName) -> dict[str, str]:
    """Return protocol -> "train" or "val"."""
    return {protocol: "val" if name.view == view else "train" for protocol, view in VAL_VIEWS.items()}


def read_clip(file: RawFile) -> FileResult:
    """Read one file into a normalized clip, or the reason why it is left out."""
    name = parse_name(file.name)
    label = ACTIONS.index(name.action)
    try:
        joints = parse_clip(file.read(), file.name, label)
        frames = frames_of_array(joints, skeleton=KINECT_V1)
    except BadFile as error:
        return FileResult(left_out=[Issue.of(error, file.display_name)])
    return FileResult([Clip(file.name, label, frames, splits_of(name))])


def parse_clip(data: bytes, name: str, label: int) -> np.ndarray:
    """Return the joints (frames, 20, 3) of a file.

    Raises ``BadFile`` if it is damaged, or contradicts its name.
    """
    try:
        content = json.loads(data, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise BadFile("cannot be read as JSON") from error
    if not isinstance(content, dict) or not isinstance(content.get("skeletons"), list):
        raise BadFile("the file does not contain 'skeletons'")
    if content.get("label") != label + 1:
        raise BadFile(f"the label does not match the name, whose label is {label + 1}")
    if content.get("file_name", name) != name:
        raise BadFile("'file_name' does not match the name of the file")
    try:
        return np.array(content["skeletons"])
    except ValueError as error:
        raise BadFile("'skeletons' is not frames x 20 joints x 3 numbers") from error


def _reject_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
