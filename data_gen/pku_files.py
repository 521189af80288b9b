"""Readers of the text files of PKU-MMD (Liu et al., 2017): skeletons, labels, splits.

    skeleton   one line a frame, 150 numbers: 2 bodies x 25 joints x (x, y, z) in metres, zeros
               where there is no second body
    labels     one line an action: class,start,end,confidence; classes from 1; the frames of the
               action are [start:end], counted from 0
    split      heading, training videos, heading, test videos: four lines, names with commas
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from data_gen.errors import BadFile
from data_gen.text_numbers import Tokens, parse_decimals
from options.datasets import NUM_COORDINATES, NUM_JOINTS, NUM_PEOPLE

SKELETON_FIELDS = NUM_PEOPLE * NUM_JOINTS * NUM_COORDINATES
_WHOLE_NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)


@dataclass
class ActionRow:
    """One line of a label file: ``label`` counts classes from 0, frames are [start:end]."""

    label: int
    start: int
    end: int
    line: int


def read_pku_skeleton(data: bytes) -> np.ndarray:
    """Read the bytes of one video: float64 (2 bodies, frames, 25 joints, 3 coordinates).

    Raises BadFile, with the line, where a line does not hold 150 finite numbers.
    """
    tokens = Tokens(data)
    if tokens.num_lines == 0:
        raise BadFile("the file is empty", 1)
    wrong = np.flatnonzero(tokens.num_fields != SKELETON_FIELDS)
    if len(wrong):
        raise BadFile(f"a frame has {tokens.num_fields[wrong[0]]} numbers instead of "
                      f"{SKELETON_FIELDS}", tokens.line_number(int(wrong[0])))
    values = parse_decimals(tokens, np.arange(tokens.num_lines), SKELETON_FIELDS)
    return values.reshape(-1, NUM_PEOPLE, NUM_JOINTS, NUM_COORDINATES).swapaxes(0, 1)


def read_pku_labels(data: bytes, num_classes: int) -> tuple[list[ActionRow], list[BadFile]]:
    """The rows of a label file in their order, and what is wrong with the other ones."""
    rows, bad = [], []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), start=1):
        fields = [field.strip() for field in line.split(",")]
        if fields == [""]:
            continue
        if len(fields) not in (3, 4) or not all(map(_WHOLE_NUMBER.fullmatch, fields[:3])):
            bad.append(BadFile("the line is not class,start,end,confidence", number))
            continue
        action, start, end = map(int, fields[:3])
        if not 1 <= action <= num_classes:
            bad.append(BadFile(f"class {action} is not one of the {num_classes}", number))
        else:
            rows.append(ActionRow(action - 1, start, end, number))
    return rows, bad


def check_row(row: ActionRow, num_frames: int) -> None:
    """Raise BadFile where a row does not name at least two frames of a video of this length."""
    if row.start < 0 or row.end <= row.start:
        raise BadFile(f"frames {row.start} to {row.end} are not a range", row.line)
    if row.start >= num_frames:
        raise BadFile(f"frame {row.start} is behind the end of the video, which has {num_frames}",
                      row.line)
    if min(row.end, num_frames) - row.start < 2:
        raise BadFile("the action is shorter than 2 frames", row.line)


def notes_on_row(row: ActionRow, earlier: list[ActionRow], num_frames: int,
                 max_frames: int) -> list[str]:
    """What is odd about a row that is used all the same; ``earlier`` are the rows above it."""
    notes = []
    if row.end > num_frames:
        notes.append(f"ends at frame {row.end}, cut at the end of the video, {num_frames}")
    if min(row.end, num_frames) - row.start > max_frames:
        notes.append(f"{min(row.end, num_frames) - row.start} frames, cut to the first "
                     f"{max_frames}")
    if any(other.start > row.start for other in earlier):
        notes.append("out of order: an action above it begins later")
    overlapping = [other for other in earlier if other.start < row.end and row.start < other.end]
    if overlapping:
        notes.append(f"overlaps the action on line {overlapping[0].line}")
    return notes


def read_pku_split(data: bytes) -> dict[str, str]:
    """``{video: "train" | "val"}`` from the text of a split file.

    Raises BadFile where it does not have the four lines, or a video is on both sides.
    """
    text = data.decode("utf-8-sig", "replace")
    lines = [line for line in text.splitlines() if line.strip(" \t,")]
    if len(lines) != 4:
        raise BadFile(f"{len(lines)} lines instead of 4: a heading, the training videos, a "
                      "heading, the test videos")
    train, val = ({name.removesuffix(".txt") for name in re.split(r"[,\s]+", line) if name}
                  for line in (lines[1], lines[3]))
    if train & val:
        raise BadFile(f"{min(train & val)} is both a training and a test video")
    return {**dict.fromkeys(train, "train"), **dict.fromkeys(val, "val")}
