"""Opens a store (see ``dataset.store_format``) and answers for one split of one protocol."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from options.datasets import NUM_COORDINATES, NUM_JOINTS, NUM_PEOPLE
from options.errors import UserError

from .store_format import (
    CLIP_COLUMNS, CLIPS_FILE, FORMAT_VERSION, FRAMES_FILE, INFO_FILE, SPLITS,
)

FRAME_SHAPE = (NUM_JOINTS, NUM_COORDINATES, NUM_PEOPLE)


@dataclass(frozen=True)
class Store:
    """A store's tables, and its frames as a memory map: nothing large is read on opening."""

    folder: Path
    dataset: str
    num_classes: int
    frames: np.ndarray  # (all frames, 25, 3, 2) float32
    names: list[str]
    labels: np.ndarray  # (clips,) int64, from zero
    first_frame: np.ndarray  # (clips,) int64
    num_frames: np.ndarray  # (clips,) int64
    splits: dict[str, list[str]]  # protocol -> a cell per clip: train, val or empty

    def clips_of(self, protocol: str, split: str) -> np.ndarray:
        """Rows of the clips of one split, in the store's order."""
        return np.flatnonzero(np.array(self.splits[protocol]) == split)


def is_store(folder: Path) -> bool:
    return (folder / INFO_FILE).is_file()


def read_info(folder: Path) -> dict:
    """``store.json``, refused where it is damaged or of another format version."""
    path = folder / INFO_FILE
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = info["format_version"]
        info["dataset"], int(info["num_classes"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read as a store's description ({error}); make it again")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: "
            "make the store again with this version's data_gen"
        )
    return info


def read_clips(path: Path) -> tuple[list[str], np.ndarray, dict[str, list[str]]]:
    """``clips.csv``: names, integers (label, first_frame, num_frames) and the protocol columns."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); make the store again")
    if tuple(header[:4]) != CLIP_COLUMNS:
        raise UserError(f"{path}, line 1: the columns must begin with {','.join(CLIP_COLUMNS)}")
    numbers = np.zeros((len(rows), 3), dtype=np.int64)
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} cells, the header has {len(header)}")
        try:
            numbers[line - 2] = [int(cell) for cell in row[1:4]]
        except ValueError:
            raise UserError(f"{path}, line {line}: label, first_frame, num_frames must be integers")
        for cell in row[4:]:
            if cell and cell not in SPLITS:
                raise UserError(f"{path}, line {line}: '{cell}' is no split (train, val or empty)")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header[4:], start=4)}
    return [row[0] for row in rows], numbers, columns


def open_store(folder: Path) -> Store:
    """Open a store and check that its three files agree with each other."""
    info = read_info(folder)
    names, numbers, splits = read_clips(folder / CLIPS_FILE)
    path = folder / FRAMES_FILE
    try:
        # Copy on write: torch wants writable memory; nothing of ours writes to it.
        frames = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); make the store again")
    if frames.dtype != np.float32 or frames.shape[1:] != FRAME_SHAPE:
        raise UserError(f"{path} holds {frames.dtype} {frames.shape}, not float32 (F, 25, 3, 2)")
    labels, first_frame, num_frames = numbers.T
    ends = first_frame + num_frames
    if len(names) and (num_frames.min() < 1 or first_frame.min() < 0 or ends.max() > len(frames)):
        raise UserError(f"{folder}: {CLIPS_FILE} names frames that {FRAMES_FILE} does not have")
    if len(names) and not 0 <= labels.min() <= labels.max() < int(info["num_classes"]):
        raise UserError(f"{folder}: {CLIPS_FILE} has a label outside 0..{info['num_classes'] - 1}")
    return Store(
        folder, info["dataset"], int(info["num_classes"]), frames, names,
        labels, first_frame, num_frames, splits,
    )
