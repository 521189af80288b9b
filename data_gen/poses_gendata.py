"""Turn the files of a pose estimator, or of a Kinect dataset in text files, into a store.

    python data_gen/poses_gendata.py --dataset mine --data_path poses --val-fraction 0.2

--data_path is a folder or an archive. Each clip is

- OpenPose: the files NAME_000000000012_keypoints.json of one folder and NAME (BODY_25 or COCO);
- AlphaPose: alphapose-results.json, the name of the clip is that of its folder;
- MMPose: a JSON file of predictions, {"instance_info": [...]} or the list of frames;
- Kinetics-skeleton: a JSON file with "data", "label" and "label_index";
- MediaPipe: landmarks (frames, 33, 3 to 5) in an .npy file, or a JSON list of frames of landmarks;
- UTKinect: joints_s01_e01.txt, divided into the labeled actions if there is actionLabel.txt;
- NW-UCLA: a folder a01_s01_e00 with one .txt file per frame, in a folder view_1, or one .txt file per clip.

The people of a frame become tracks, by their numbers in the file or else by their distance from frame to
frame. The two with the most motion are kept. Joints of score 0 are missing, and those below --min-score. What
is dropped is listed in store.json. Labels and splits are given as for data_gen/arrays_gendata.py.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen import command_line as flags
from data_gen.class_folders import add_label_flags, label_files, open_store
from data_gen.own_clips import TableRow, prepare_clip
from data_gen.pose_files import FRAME_FILE, ClipFiles, array_of_frames, read_frames
from data_gen.sources import Issue, RawFile, find_raw_files, first_reason, load_contents
from data_gen.store_writer import Clip, FileResult, check_target, prepare
from data_gen.ucla_gendata import parse_name as parse_ucla_name
from facts.class_names import CLASS_NAMES
from facts.datasets import DATASETS
from facts.skeletons import Skeleton, load_skeleton, skeleton_of
from options.parser import Parser
from utils.errors import BadFile, UserError, run_script

SUFFIXES = ".json", ".npy", ".txt"
MMPOSE_3D = 17, 3  # joints and coordinates: COCO or Human3.6M, in another order
_FRAME_FILES = {".json": re.compile(r"(?P<prefix>.*?)_?\d+_keypoints\Z"), ".txt": FRAME_FILE}
_UCLA_FOLDER = re.compile(r"(?:.*/)?view_?0?(\d)/(a\d\d_s\d\d_e\d\d)")
_CLASS_IN_FILE = re.compile(rb'"label"\s*:\s*"([^"]*)"')
_LABEL_IN_FILE = re.compile(rb'"label_index"\s*:\s*(\d{1,4})\b')
_SEQUENCE = re.compile(r"s\d+_e\d+", re.IGNORECASE)
_ACTION = re.compile(r"(\w+)\s*:\s*(\S+)\s+(\S+)")


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    flags.add_flag(parser, "dataset", required=True, help="a name for the dataset, or ucla")
    flags.add_path_flag(parser, "data_path", required=True, help="a folder or an archive with the files")
    add_label_flags(parser)
    flags.add_skeleton_flag(parser, None, "by the number of joints and coordinates")
    flags.add_number_flag(parser, "min_score", float, 0.0, "joints of a lower score are missing")
    flags.add_class_flags(parser, "largest label + 1")
    flags.add_store_flags(parser)
    args = parser.parse_args(arguments)
    if args.dataset in DATASETS and args.dataset != "ucla":
        parser.error(f"--dataset {args.dataset} is reserved; choose another name")
    args.out_folder = args.out_folder or flags.DATA_FOLDER / args.dataset
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    check_target(args.out_folder, args.overwrite)
    class_names = flags.read_class_flags(args)
    left_out: list[Issue] = []
    clips = find_clips(args.data_path, args.dataset == "ucla", left_out)
    found = label_files(clips, args, class_names, left_out)
    skeleton = load_skeleton(args.skeleton) if args.skeleton else find_skeleton(found.rows)
    store = open_store(found, "data_gen/poses_gendata.py", args, skeleton, ["min_score"])
    read = partial(read_clip, skeleton=skeleton, min_score=args.min_score)
    return prepare(store, read, found.rows, args, unit="clip")


def find_clips(path: Path, is_ucla: bool, left_out: list[Issue]) -> list[ClipFiles]:
    """Return the clips below a path, with what their names and files say about their class.

    Raises ``UserError`` if there are none.
    """
    files = find_raw_files([path], SUFFIXES, left_out=left_out)
    if any(file.is_streamed for file in files):
        files = sorted(load_contents(files))
    sequences = {}
    groups: dict[tuple[str, str, str], list[RawFile]] = defaultdict(list)  # folder, prefix, suffix
    for file in files:
        if file.name == "actionLabel":
            sequences.update(actions_of(file))
            continue
        folder, prefix = file.full_name.rpartition("/")[0], file.name
        frame = _FRAME_FILES[file.suffix].match(file.name) if file.suffix in _FRAME_FILES else None
        if frame or prefix == "alphapose-results":
            prefix = frame.groupdict().get("prefix", "") if frame else ""
        groups[folder, prefix, file.suffix].append(file)
    of_frames = [key for key, parts in groups.items() if len(parts) > 1]
    are_folders = len({folder for folder, *_ in of_frames}) == len(of_frames)  # one clip in each
    clips = []
    for (folder, prefix, suffix), parts in groups.items():
        if prefix and suffix == ".txt" and (folder, "", suffix) in groups:
            reason = "is not read, because the clip has a file per frame"
            left_out += [Issue(file.display_name, None, reason, failed_clips=0) for file in parts]
            continue
        is_folder = not prefix or (are_folders and len(parts) > 1)
        full_name = (folder or path.stem) if is_folder and (folder or not prefix) else f"{folder}/{prefix}"
        full_name = full_name.removeprefix("/")
        name = full_name.rpartition("/")[2]
        clip = ClipFiles(name, full_name, str(path), full_name=full_name, parts=tuple(parts))
        try:
            clip = as_ucla(clip) if is_ucla else clip
        except BadFile as error:
            left_out.append(Issue.of(error, full_name))
            continue
        segments = sequences.get(prefix.removeprefix("joints_"), [])
        for action, start, end in segments:
            name = f"{full_name}_{action}"
            part = replace(clip, name=name.rpartition("/")[2], display_name=name, full_name=name)
            clips.append(replace(part, frames=(start, end), class_name=action))
        if not segments:
            clips.append(with_label_in_file(clip))
    if not clips:
        raise UserError(f"no file of poses in {path}{first_reason(left_out)}; see --help for the formats")
    return sorted(clips)


def actions_of(file: RawFile) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Yield sequence -> actions with first and last frame, from the actionLabel.txt of UTKinect."""
    name, actions = "", list[tuple[str, int, int]]()
    for line in [*file.read().decode("utf-8-sig").splitlines(), "s0_e0"]:
        if _SEQUENCE.fullmatch(line.strip()):
            yield name, actions
            name, actions = line.strip(), []
        elif (match := _ACTION.fullmatch(line.strip())) and (match[2] + match[3]).isdecimal():
            actions.append((match[1], int(match[2]), int(match[3])))


def as_ucla(clip: ClipFiles) -> ClipFiles:
    """Return a clip of NW-UCLA with its published name, label and splits. Raises ``BadFile`` for others."""
    match = _UCLA_FOLDER.fullmatch(clip.full_name)
    name = f"{match[2]}_v{int(match[1]):02d}" if match else clip.name
    label, splits = parse_ucla_name(name)
    class_name = CLASS_NAMES["ucla"][label]
    return replace(clip, name=name, full_name=name, label=label, splits=splits, class_name=class_name)


def with_label_in_file(clip: ClipFiles) -> ClipFiles:
    """Return a clip with the label that a file of Kinetics-skeleton contains; others are unchanged."""
    if len(clip.parts) > 1 or clip.parts[0].suffix != ".json":
        return clip
    with suppress(BadFile):  # reported when it is read as a clip
        data = clip.parts[0].read()
        if (name := _CLASS_IN_FILE.search(data)) and (label := _LABEL_IN_FILE.search(data)):
            return replace(clip, class_name=name[1].decode(errors="replace").strip(), label=int(label[1]))
    return clip


def find_skeleton(rows: Sequence[TableRow]) -> Skeleton:
    """Return the skeleton of the first person in any clip; raises ``UserError`` if there is none."""
    reason: Any = "they show nobody"
    for row in rows:
        try:
            frames, _ = read_frames(row.file)
        except BadFile as error:
            reason = f"{row.file.display_name}: {error}"
            continue
        shape = next((person.joints.shape for people in frames.values() for person in people), None)
        if shape == MMPOSE_3D:
            raise UserError(
                f"{row.name} has 17 joints in 3D, which can be those of COCO or Human3.6M: give "
                "--skeleton coco_3d, or define the skeleton in a file (docs/data.md)"
            )
        if shape:
            return skeleton_of(*shape)
    raise UserError(f"none of the {len(rows)} clips can be used; the first reason: {reason}")


def read_clip(row: TableRow, skeleton: Skeleton, min_score: float) -> FileResult:
    """Read the files of a clip. Raises ``BadFile`` if they are not poses of this skeleton."""
    frames, issues = read_frames(row.file)
    array, notes = array_of_frames(frames, min_score)
    result = prepare_clip(Clip(row.name, row.label, array, row.splits), row.display_name, skeleton=skeleton)
    result.left_out += issues
    result.notes += [Issue(row.display_name, None, note) for note in notes]
    return result


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
