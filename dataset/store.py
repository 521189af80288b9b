"""Reading a store (see ``dataset.store_format``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facts.class_names import default_class_names, is_class_name
from facts.skeletons import KINECT_V2, Skeleton, from_data
from utils.csv_tables import read_csv
from utils.errors import ARRAY_ERRORS, UserError

from .store_format import (
    CLIP_COLUMNS,
    CLIPS_FILE,
    FORMAT_VERSION,
    FRAMES_FILE,
    INFO_FILE,
    SPLITS,
)


@dataclass(frozen=True)
class Store:
    """The tables of a store, and its frames as a memory map; opening it reads no frames."""

    folder: Path
    dataset: str
    num_classes: int
    class_names: tuple[str, ...]  # one per class
    skeleton: Skeleton
    frames: np.ndarray  # (all frames, V, 3, 2) float32
    names: list[str]
    labels: np.ndarray  # (clips,) int64, 0-based
    first_frame: np.ndarray  # (clips,) int64
    num_frames: np.ndarray  # (clips,) int64
    splits: dict[str, list[str]]  # protocol -> train, val or empty, per clip
    normalized: bool = True  # False: the coordinates are those of the input

    def clips_of(self, protocol: str, split: str) -> np.ndarray:
        """Return the rows of the clips of one split, in the order of the store."""
        return np.flatnonzero(np.array(self.splits[protocol]) == split)


def is_store(folder: Path) -> bool:
    """Return whether ``folder`` contains a store."""
    return (folder / INFO_FILE).is_file()


def read_info(folder: Path) -> dict:
    """Read ``store.json``; raises ``UserError`` if it is corrupted or has another format version."""
    path = folder / INFO_FILE
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = info["format_version"]
        info["dataset"], int(info["num_classes"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a valid store description ({error}); rebuild the store") from error
    if str(version) != str(FORMAT_VERSION):  # JSON that another program wrote may have "1"
        raise UserError(
            f"{path} has format version {version}, but this version reads {FORMAT_VERSION}: rebuild the "
            "store with data_gen/"
        )
    return info


def is_normalized(info: dict) -> bool:
    """Return whether the clips were normalized, according to the content of ``store.json``."""
    origin = info.get("made_by")
    origin = origin if isinstance(origin, dict) else {}
    return not origin.get("keep_coordinates", False) and origin.get("normalise", True) is not False


def read_class_names(info: dict, path: Path) -> tuple[str, ...]:
    """Return the class names in the content of ``store.json``, or the default ones if there are none."""
    num_classes, names = int(info["num_classes"]), info.get("class_names")
    if names is None:
        return default_class_names(info["dataset"], num_classes)
    if not isinstance(names, list) or len(names) != num_classes or not all(map(is_class_name, names)):
        raise UserError(f"{path}: class_names is not a list of {num_classes} names; rebuild the store")
    return tuple(names)


def read_clips(path: Path) -> tuple[list[str], np.ndarray, dict[str, list[str]]]:
    """Read ``clips.csv``: names, (label, first_frame, num_frames) per clip, and the protocol columns."""
    table = read_csv(path, CLIP_COLUMNS, "rebuild the store")
    header, rows = table.columns, [row for _, row in table.rows]
    if tuple(header[:4]) != CLIP_COLUMNS:
        raise UserError(f"{path}, line 1: the first columns must be {','.join(CLIP_COLUMNS)}")
    numbers = np.zeros((len(rows), 3), dtype=np.int64)
    for i, (line, row) in enumerate(table.rows):
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} cells, the header has {len(header)}")
        try:
            numbers[i] = [int(cell) for cell in row[1:4]]
        except ValueError as error:
            raise UserError(
                f"{path}, line {line}: label, first_frame and num_frames must be integers"
            ) from error
        for cell in row[4:]:
            if cell and cell not in SPLITS:
                raise UserError(f"{path}, line {line}: '{cell}' is not a split (train, val or empty)")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header[4:], start=4)}
    return [row[0] for row in rows], numbers, columns


def open_store(folder: Path) -> Store:
    """Open a store and check that its three files are consistent; raises ``UserError`` if not."""
    info = read_info(folder)
    skeleton = from_data(info.get("skeleton", KINECT_V2.name), str(folder / INFO_FILE))
    names, numbers, splits = read_clips(folder / CLIPS_FILE)
    path = folder / FRAMES_FILE
    try:
        # Copy-on-write: torch requires writable memory, but nothing writes to it.
        frames = np.load(path, mmap_mode="c", allow_pickle=False)
    except ARRAY_ERRORS as error:
        raise UserError(f"{path} cannot be read ({error}); rebuild the store") from error
    if frames.dtype != np.float32 or frames.shape[1:] != skeleton.frame_shape:
        expected = ", ".join(map(str, skeleton.frame_shape))
        raise UserError(
            f"{path} contains {frames.dtype} {frames.shape}, expected float32 (F, {expected}) for the "
            f"skeleton {skeleton.name}"
        )
    labels, first_frame, num_frames = numbers.T
    ends = first_frame + num_frames
    if len(names) and (num_frames.min() < 1 or first_frame.min() < 0 or ends.max() > len(frames)):
        raise UserError(
            f"{folder}: {CLIPS_FILE} refers to frames beyond the end of {FRAMES_FILE}; rebuild the store"
        )
    if len(names) and not 0 <= labels.min() <= labels.max() < int(info["num_classes"]):
        raise UserError(
            f"{folder}: {CLIPS_FILE} has a label outside 0..{info['num_classes'] - 1}; rebuild the store"
        )
    return Store(
        folder,
        info["dataset"],
        int(info["num_classes"]),
        read_class_names(info, folder / INFO_FILE),
        skeleton,
        frames,
        names,
        labels,
        first_frame,
        num_frames,
        splits,
        is_normalized(info),
    )
