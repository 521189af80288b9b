"""Reading a store (see ``dataset.store_format``)."""

from __future__ import annotations

import csv
import json
from array import array
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from facts.class_names import default_class_names, is_class_name
from facts.skeletons import KINECT_V2, Skeleton, from_data
from utils.errors import UserError, parse_errors

from . import store_format as layout
from .official_layout import load_array

DELIMITERS = ",;\t"  # spreadsheet programs write the others


@dataclass(frozen=True)
class Store:
    """The tables of a store, and its frames as a memory map; opening it reads no frames."""

    folder: Path
    dataset: str
    num_classes: int
    class_names: tuple[str, ...]  # one per class
    skeleton: Skeleton
    frames: np.ndarray  # (all frames, V, 3, 2) float32, a read-only memory map
    names: list[str]
    labels: np.ndarray  # (clips,) int64, 0-based; NO_LABEL for a clip without label
    first_frame: np.ndarray  # (clips,) int64
    num_frames: np.ndarray  # (clips,) int64
    splits: dict[str, list[str]]  # protocol -> train, val or empty, per clip
    normalized: bool = True  # False: the coordinates are those of the input

    def clips_of(self, protocol: str, split: str) -> np.ndarray:
        """Return the rows of the clips of one split, in the order of the store."""
        return np.flatnonzero(np.array(self.splits[protocol]) == split)


def is_store(folder: Path) -> bool:
    """Return whether ``folder`` contains a store."""
    return (folder / layout.INFO_FILE).is_file()


def read_clips(path: Path) -> tuple[list[str], np.ndarray, dict[str, list[str]]]:
    """Read ``clips.csv``: names, (label, first_frame, num_frames) per clip, and the protocol columns.

    A million clips do not need more memory than their names. The table may have been saved by a spreadsheet
    program, with another delimiter, blank rows and empty columns.
    """
    with parse_errors(f"{path} cannot be read; rebuild the store"):
        status = path.stat()
        return _read_clips(path, (status.st_ino, status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=1)  # both splits of a store are opened one after the other
def _read_clips(path: Path, version: tuple[int, ...]) -> tuple[list[str], np.ndarray, dict[str, list[str]]]:
    names: list[str] = []
    numbers = array("q")
    split_of = {"": "", **{split: split for split in layout.SPLITS}}  # one string for all clips
    with open(path, encoding="utf-8-sig", newline="") as file:
        delimiter = max(DELIMITERS, key=file.readline().count)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter)
        columns = _without_empty_end(next(reader, []))
        if tuple(columns[:4]) != layout.CLIP_COLUMNS:
            raise UserError(f"{path}, line 1: the first columns must be {','.join(layout.CLIP_COLUMNS)}")
        splits: list[list[str]] = [[] for _ in columns[4:]]
        for row in reader:
            if not any(row):
                continue
            if len(row) > len(columns):
                row = _without_empty_end(row, len(columns))
            try:
                name, label, first, count, *cells = row
                # not int(label): a label below 0 is an error
                numbers.extend((np.uint32(label) if label else layout.NO_LABEL, int(first), int(count)))
                for values, cell in zip(splits, cells, strict=True):
                    values.append(split_of[cell])
            except (ValueError, KeyError, OverflowError) as error:
                text = f"{path}, line {reader.line_num}: '{delimiter.join(row):.80}' is not"
                raise UserError(f"{text} {len(columns)} cells: a name, 3 integers, train or val") from error
            names.append(name)
    table = np.frombuffer(numbers, np.int64).reshape(-1, 3)
    return names, table, dict(zip(columns[4:], splits))


def _without_empty_end(row: list[str], length: int = 0) -> list[str]:
    while len(row) > length and not row[-1]:
        row.pop()
    return row


def open_store(folder: Path) -> Store:
    """Open a store and check that its three files are consistent; raises ``UserError`` if not."""
    path = folder / layout.INFO_FILE
    with parse_errors(f"{path} is not a valid store description; rebuild the store"):
        info = json.loads(path.read_text(encoding="utf-8"))
        version = info["format_version"]
        if str(version) != str(layout.FORMAT_VERSION):  # JSON that another program wrote may have "1"
            reads = f"but this version reads {layout.FORMAT_VERSION}"
            raise UserError(f"{path} has format version {version}, {reads}: rebuild the store with data_gen/")
        dataset, num_classes = info["dataset"], int(info["num_classes"])
        default = default_class_names(dataset, min(num_classes, layout.MAX_CLASSES))
        classes = info.get("class_names", list(default))
        is_valid = isinstance(classes, list) and all(map(is_class_name, classes))
        if not is_valid or len(classes) != num_classes:
            raise ValueError(f"class_names is not a list of {num_classes} names")
        origin = info.get("made_by") or {}
        normalized = not origin.get("keep_coordinates", False) and origin.get("normalise", True)
    skeleton = from_data(info.get("skeleton", KINECT_V2.name), str(path))
    names, numbers, splits = read_clips(folder / layout.CLIPS_FILE)
    frames = load_array(folder / layout.FRAMES_FILE, skeleton.frame_shape, ("float32",))
    labels, first_frame, num_frames = numbers.T
    problem = None
    if ((num_frames < 1) | (first_frame < 0) | (first_frame + num_frames > len(frames))).any():
        problem = f"refers to frames beyond the end of {layout.FRAMES_FILE}"
    elif (labels >= num_classes).any():
        problem = f"has a label outside 0..{num_classes - 1}"
    if problem:
        raise UserError(f"{folder}: {layout.CLIPS_FILE} {problem}; rebuild the store")
    description = folder, dataset, num_classes, tuple(classes), skeleton
    return Store(*description, frames, names, labels, first_frame, num_frames, splits, normalized)
