"""Read the label and split files of PKU-MMD (Liu et al., 2017), and match them with the videos.

    labels     one action per line: class,start,end,confidence; classes from 1; the frames of the action are
               [start:end], counted from 0
    split      four lines: a heading, the training videos, a heading, the test videos; names with commas

``skeleton_file.read_pku_skeleton`` reads the skeletons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_gen.sources import BadFile, Issue, RawFile, find_files
from options.errors import UserError

SUFFIX = ".txt"
PROTOCOL_WORDS = {"subject": "cross_subject", "view": "cross_view"}  # in the names of split files
_WHOLE_NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)


@dataclass(frozen=True)
class Video:
    """One video: its skeletons, its labels, and its split in every protocol."""

    skeletons: RawFile
    labels: RawFile
    splits: dict[str, str]  # protocol -> "train" or "val"


@dataclass
class Action:
    """One line of a label file: ``label`` counts classes from 0, the frames are [start:end]."""

    label: int
    start: int
    end: int
    line: int


def find_videos(
    data_path: Sequence[Path], label_path: Sequence[Path], splits: dict[str, dict[str, str]]
) -> tuple[list[Video], list[Issue]]:
    """Match skeleton files, label files and splits by the name of the video.

    Returns the videos in the order of their clips, and the issues of files that are left out: duplicates, and
    files without a counterpart. Raises ``UserError`` if no video remains.
    """
    left_out: list[Issue] = []
    skeletons = _by_name(find_files(data_path, SUFFIX), left_out)
    labels = _by_name(find_files(label_path, SUFFIX, flag="--label_path"), left_out)
    # The names of clips begin with the video's name and an underscore.
    names = sorted(skeletons.keys() & labels.keys(), key="{}_".format)
    if not names:
        raise UserError(
            f"no video has a skeleton file below --data_path ({len(skeletons)} files) and a label file of "
            f"the same name below --label_path ({len(labels)})"
        )
    for files, others, reason in (
        (skeletons, labels, "no label file has this name"),
        (labels, skeletons, "no skeleton file has this name"),
    ):
        left_out += [
            Issue(files[name].display_name, None, reason) for name in sorted(files.keys() - others.keys())
        ]
    videos = []
    for name in names:
        video_splits = {protocol: split[name] for protocol, split in splits.items() if name in split}
        videos.append(Video(skeletons[name], labels[name], video_splits))
    return videos, left_out


def _by_name(files: list[RawFile], left_out: list[Issue]) -> dict[str, RawFile]:
    """Return files by name; duplicates are appended to ``left_out``."""
    by_name: dict[str, RawFile] = {}
    for file in files:
        used = by_name.setdefault(file.name, file)
        if used is not file:
            reason = f"the same name as {used.display_name}, which is used"
            left_out.append(Issue(file.display_name, None, reason, failed_clips=0))
    return by_name


def read_splits(path: Path, part: str) -> dict[str, dict[str, str]]:
    """Read a split file, or those in a folder or archive.

    Args:
        path: a file, a folder or a zip archive.
        part: "1" or "2"; if some names contain "v2", only the files of this part are read.

    Returns:
        protocol -> video -> "train" or "val"
    """
    files = find_files([path], SUFFIX, flag="--split_path")
    of_part = [file for file in files if ("v2" in file.name.lower()) == (part == "2")]
    splits: dict[str, dict[str, str]] = {}
    for file in of_part or files:
        protocols = [protocol for word, protocol in PROTOCOL_WORDS.items() if word in file.name.lower()]
        if len(protocols) != 1:
            continue
        if protocols[0] in splits:
            raise UserError(
                f"{path} contains more than one split file of {protocols[0]} for part {part}; give the one "
                "to use with --split_path"
            )
        try:
            splits[protocols[0]] = parse_split(file.read())
        except BadFile as error:
            raise UserError(f"the split file {file.display_name} cannot be used: {error.reason}") from error
    if not splits:
        raise UserError(
            f"no split file in {path}: its name must contain 'subject' or 'view', as in cross-subject.txt"
        )
    return splits


def parse_split(data: bytes) -> dict[str, str]:
    """Parse the content of a split file: video -> "train" or "val".

    Raises ``BadFile`` if it does not have four lines, or if a video is in both splits.
    """
    text = data.decode("utf-8-sig", "replace")
    lines = [line for line in text.splitlines() if line.strip(" \t,")]
    if len(lines) != 4:
        raise BadFile(
            f"{len(lines)} lines instead of 4: a heading, the training videos, a heading, the test videos"
        )
    train, val = (
        {name.removesuffix(SUFFIX) for name in re.split(r"[,\s]+", line) if name}
        for line in (lines[1], lines[3])
    )
    if train & val:
        raise BadFile(f"{min(train & val)} is both a training and a test video")
    return {**dict.fromkeys(train, "train"), **dict.fromkeys(val, "val")}


def parse_labels(data: bytes, num_classes: int) -> tuple[list[Action], list[BadFile]]:
    """Parse the content of a label file: its actions in their order, and the errors of the other lines."""
    actions, errors = [], []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), start=1):
        fields = [field.strip() for field in line.split(",")]
        if fields == [""]:
            continue
        if len(fields) not in (3, 4) or not all(map(_WHOLE_NUMBER.fullmatch, fields[:3])):
            errors.append(BadFile("the line is not class,start,end,confidence", number))
            continue
        label, start, end = map(int, fields[:3])
        if 1 <= label <= num_classes:
            actions.append(Action(label - 1, start, end, number))
        else:
            errors.append(BadFile(f"class {label} is not one of the {num_classes}", number))
    return actions, errors


def check_action(action: Action, num_frames: int) -> None:
    """Raise ``BadFile`` unless an action has at least two frames of a video of this length."""
    if action.start < 0 or action.end <= action.start:
        raise BadFile(f"frames {action.start} to {action.end} are not a valid range", action.line)
    if action.start >= num_frames:
        raise BadFile(
            f"frame {action.start} is beyond the end of the video, which has {num_frames} frames", action.line
        )
    if min(action.end, num_frames) - action.start < 2:
        raise BadFile("the action is shorter than 2 frames", action.line)


def action_warnings(action: Action, earlier: list[Action], num_frames: int, max_frames: int) -> list[str]:
    """Return warnings about an action that is used nevertheless; ``earlier`` are the actions above it."""
    warnings = []
    length = min(action.end, num_frames) - action.start
    if action.end > num_frames:
        warnings.append(f"ends at frame {action.end}, cut at the end of the video, {num_frames}")
    if length > max_frames:
        warnings.append(f"{length} frames, cut to the first {max_frames}")
    if any(other.start > action.start for other in earlier):
        warnings.append("out of order: an action above it begins later")
    overlapping = [other for other in earlier if other.start < action.end and action.start < other.end]
    if overlapping:
        warnings.append(f"overlaps the action on line {overlapping[0].line}")
    return warnings
