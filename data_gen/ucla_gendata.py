"""Turn NW-UCLA (Wang et al., 2014), as distributed with CTR-GCN, into one store for all protocols.

    python data_gen/ucla_gendata.py --data_path NW-UCLA/all_sqe            # -> data/ucla
    python data_gen/ucla_gendata.py --data_path all_sqe.zip --dry-run

Finds files like a01_s01_e00_v01.json (action, subject, repetition, view) under --data_path, in folders and in
zip archives. A file contains {"file_name", "skeletons": frames x 20 joints x 3, "label": 1 to 10}, with the
joints of Kinect v1. Clips are normalized like those of NTU RGB+D. The store (dataset/store_format.py) is
written atomically. Its store.json lists every file that was left out, with the reason.
"""

from __future__ import annotations

import json
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
from facts.skeletons import KINECT_V1
from utils.errors import BadFile, UserError, parse_errors, run_script

DATASET = "ucla"
ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)  # in file names; classes 0 to 9
VAL_VIEWS = {"cross_view": 3, "view1": 1, "view2": 2}  # protocol -> view of the validation clips
_NAME = re.compile(r"a(\d\d)_s\d\d_e\d\d_v0([123])", re.ASCII)


def main(arguments: Sequence[str] | None = None) -> int:
    args = flags.parse_published(__doc__, DATASET, "folders or zip archives with the .json files", arguments)
    if not args.dry_run:
        check_target(args.out_folder, args.overwrite)
    info, origin = DATASETS[DATASET], flags.provenance("data_gen/ucla_gendata.py", args, ("data_path",))
    folder, overwrite = args.out_folder, args.overwrite
    store = StoreWriter(folder, DATASET, info.num_classes, info.protocols, origin, overwrite, KINECT_V1)
    files = find_raw_files(args.data_path, ".json", left_out=store.left_out)
    files = select_files(files, store.left_out)
    return prepare_files(store, files, lambda file: parse_name(file.name)[1], read_clip, args)


def select_files(files: Sequence[RawFile], left_out: list[Issue]) -> list[RawFile]:
    """Return the files whose name is that of a clip, each name once; the others are added to ``left_out``.

    Raises ``UserError`` if no file has such a name.
    """
    selected: dict[str, RawFile] = {}
    for file in files:
        try:
            parse_name(file.name)
            used = selected.setdefault(file.name, file)
            if used is not file:
                if file.read() != used.read():
                    raise BadFile(f"the same name as {used.display_name}, which is used, but another content")
                reason = f"a copy of {used.display_name}, which is used"
                left_out.append(Issue(file.display_name, None, reason, failed_clips=0))
        except BadFile as error:
            left_out.append(Issue.of(error, file.display_name))
    if not selected:
        raise UserError(
            "no file is named like a01_s01_e00_v01.json; set --data_path to the folder or zip archive of the "
            f"dataset{first_reason(left_out)}"
        )
    return list(selected.values())


def parse_name(name: str) -> tuple[int, dict[str, str]]:
    """Return the label, and protocol -> split, of a name such as ``a01_s01_e00_v01``.

    Raises ``BadFile`` if it is not the name of a clip.
    """
    match = _NAME.fullmatch(name)
    if match is None or int(match[1]) not in ACTIONS:
        raise BadFile(
            "the name is not of the form aAA_sSS_eEE_vVV with an action of "
            f"{', '.join(map(str, ACTIONS))} and a view of 1, 2, 3"
        )
    splits = {protocol: "val" if int(match[2]) == view else "train" for protocol, view in VAL_VIEWS.items()}
    return ACTIONS.index(int(match[1])), splits


def read_clip(file: RawFile) -> FileResult:
    """Read one file into a normalized clip. Raises ``BadFile`` if it is damaged, or contradicts its name."""
    label, splits = parse_name(file.name)
    data = file.read()
    with parse_errors("cannot be read as a clip of NW-UCLA", BadFile):
        content = json.loads(data)
        given = content.get("file_name", file.name), content["label"]
        joints = np.array(content["skeletons"], dtype=np.float64)
    if given != (file.name, label + 1):
        raise BadFile(f"it contains the clip {given[0]!s:.40} with label {given[1]!s:.9}, unlike its name")
    return prepare_clip(Clip(file.name, label, joints, splits), file.display_name, skeleton=KINECT_V1)


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
