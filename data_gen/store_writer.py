"""Writing a store (``dataset/store_format.py`` describes it) so that it is either whole or absent.

Everything goes to a hidden folder beside the target, which is renamed when all of it is on disk.
The hidden folder of a run that was killed is cleared by the next run for the same target; a lock
on it keeps two runs apart, and the system drops the lock of a process that ends in any way.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import numpy as np

from dataset.store_format import (CLIP_COLUMNS, CLIPS_FILE, FORMAT_VERSION, FRAMES_FILE, INFO_FILE,
                                  SPLITS)
from options.datasets import NUM_COORDINATES, NUM_JOINTS, NUM_PEOPLE
from options.errors import UserError

FRAME_SHAPE = (NUM_JOINTS, NUM_COORDINATES, NUM_PEOPLE)
STORE_FILES = (FRAMES_FILE, CLIPS_FILE, INFO_FILE)
TOTALS = ("clips", "frames")  # in store.json's counts, beside the protocols
_NPY_HEADER_BYTES = 128


@dataclass
class Clip:
    """One clip on its way to the store: ``frames`` is float32 (frames, 25, 3, 2 people)."""

    name: str
    label: int
    frames: np.ndarray
    splits: Mapping[str, str]  # protocol -> "train" or "val"; absent: in neither


@dataclass
class Remark:
    """What ``store.json`` says about one input file. ``lost``: clips missing because of it."""

    file: str
    line: int | None
    reason: str
    lost: int = 1

    def __str__(self) -> str:
        return f"{self.file}{f', line {self.line}' if self.line else ''}: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        return {"file": self.file, "line": self.line, "reason": self.reason}


@dataclass
class Outcome:
    """What became of one input file: clips, reasons why there are not more, and notes on clips
    that are not quite what the file says."""

    clips: list[Clip] = field(default_factory=list)
    left_out: list[Remark] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)


class StoreWriter:
    """Writes one store; use it in a ``with`` block, which puts the store in place at its end.

    An exception inside the block leaves nothing behind. Clips are added in the order of their
    names and are appended to the file at once: memory does not grow with their frames.

        with StoreWriter("data/mine", "mine", num_classes=4, protocols=["cross_subject"]) as store:
            store.add(Clip("a", 0, frames, {"cross_subject": "train"}))
    """

    def __init__(self, folder: str | Path, dataset: str, num_classes: int,
                 protocols: Sequence[str], made_by: Mapping[str, Any] | None = None,
                 overwrite: bool = False) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.dataset, self.num_classes, self.protocols = dataset, num_classes, tuple(protocols)
        self.made_by = {**(made_by or {}), "numpy": np.__version__}
        self.left_out: list[Remark] = []
        self.notes: list[Remark] = []
        self.names: list[str] = []
        self.num_frames = 0
        self.split_counts = {p: dict.fromkeys(SPLITS, 0) for p in self.protocols}
        self._overwrite = overwrite
        reserved = {*CLIP_COLUMNS, *TOTALS} & set(self.protocols)
        if reserved or "" in self.protocols or len(set(self.protocols)) < len(self.protocols):
            raise UserError(f"protocols {', '.join(self.protocols)}: the names must differ from "
                            f"each other and from {', '.join((*CLIP_COLUMNS, *TOTALS))}")
        check_target(self.folder, overwrite)

    def __enter__(self) -> "StoreWriter":
        with self._disk_errors():
            self._partial, self._lock = _claim_partial_folder(self.folder)
            self._frames = open(self._partial / FRAMES_FILE, "wb", buffering=1 << 20)
            self._rows = open(self._partial / CLIPS_FILE, "w", newline="", encoding="utf-8")
        self._frames.write(b"\0" * _NPY_HEADER_BYTES)
        self._csv = csv.writer(self._rows, lineterminator="\n")
        self._csv.writerow([*CLIP_COLUMNS, *self.protocols])
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        whole = False
        try:
            if error is None:
                with self._disk_errors():
                    self._finish()
                whole = True
        finally:
            for file in (self._frames, self._rows):
                with suppress(OSError):  # a full disk again, for what was still buffered
                    file.close()
            if not whole:
                shutil.rmtree(self._partial, ignore_errors=True)
            os.close(self._lock)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written: {error.strerror}; nothing was "
                            "left there") from error

    def add(self, clip: Clip) -> None:
        """Append a clip. Raises ValueError where it cannot be part of a store."""
        self._check(clip)
        # blank columns for protocols the clip has no part in
        splits = [clip.splits.get(protocol, "") for protocol in self.protocols]
        with self._disk_errors():
            self._csv.writerow([clip.name, clip.label, self.num_frames, len(clip.frames), *splits])
            self._frames.write(np.ascontiguousarray(clip.frames).data)
        self.names.append(clip.name)
        self.num_frames += len(clip.frames)
        for protocol, split in clip.splits.items():
            self.split_counts[protocol][split] += 1

    def take(self, outcome: Outcome) -> None:
        """Add the clips of one input file and keep its remarks for ``store.json``."""
        for clip in outcome.clips:
            self.add(clip)
        self.left_out += outcome.left_out
        self.notes += outcome.notes

    def _check(self, clip: Clip) -> None:
        frames = clip.frames
        if frames.dtype != np.float32 or frames.shape[1:] != FRAME_SHAPE or not len(frames):
            raise ValueError(f"clip {clip.name}: frames are {frames.dtype} {frames.shape}, not "
                             f"float32 (at least 1, {', '.join(map(str, FRAME_SHAPE))})")
        if not np.isfinite(frames).all():
            raise ValueError(f"clip {clip.name}: a coordinate is not finite")
        if not 0 <= clip.label < self.num_classes:
            raise ValueError(f"clip {clip.name}: label {clip.label} is not one of the "
                             f"{self.num_classes} classes, counted from 0")
        if self.names and clip.name <= self.names[-1]:
            raise ValueError(f"clip {clip.name} comes after {self.names[-1]}: the names of a "
                             "store are unique and in order")
        for protocol, split in clip.splits.items():
            if protocol not in self.protocols or split not in SPLITS:
                raise ValueError(f"clip {clip.name}: {protocol}={split} is not a split of this "
                                 f"store ({', '.join(self.protocols)}: {' or '.join(SPLITS)})")

    @property
    def num_clips(self) -> int:
        return len(self.names)

    @property
    def lost_share(self) -> float:
        """Clips missing because of bad input, as a share of all that should have been there."""
        lost = sum(remark.lost for remark in self.left_out)
        return lost / max(lost + self.num_clips, 1)

    def _finish(self) -> None:
        if not self.num_clips:
            why = f"; the first reason: {self.left_out[0]}" if self.left_out else ""
            raise UserError(f"no clip came out of the input, so no store is written{why}")
        self._frames.seek(0)
        self._frames.write(_npy_header(self.num_frames))
        info_file = open(self._partial / INFO_FILE, "w", encoding="utf-8")
        with info_file:
            json.dump(self._info(), info_file, indent=1)
            info_file.write("\n")
            _flush_to_disk(info_file)
        for file in (self._frames, self._rows):
            _flush_to_disk(file)
        os.fsync(self._lock)  # the lock is the open folder: its list of files
        check_target(self.folder, self._overwrite)  # again: a whole preparation has passed
        _put_in_place(self._partial, self.folder)

    def _info(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "dataset": self.dataset,
            "num_classes": self.num_classes,
            "protocols": list(self.protocols),
            "counts": {**dict(zip(TOTALS, (self.num_clips, self.num_frames))),
                       **self.split_counts},
            "made_by": self.made_by,
            "left_out": [remark.as_json() for remark in sorted(self.left_out, key=_place)],
            "notes": [remark.as_json() for remark in sorted(self.notes, key=_place)],
        }


def check_target(folder: Path, overwrite: bool) -> None:
    """Raise UserError unless a store may be written to ``folder``."""
    if folder.is_dir() and (folder / INFO_FILE).is_file():
        if not overwrite:
            raise UserError(f"{folder} is a store already; add --overwrite to replace it, or give "
                            "another --out_folder")
    elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not a store, so it is left alone; give another "
                        "--out_folder")


def _place(remark: Remark) -> tuple[str, int, str]:
    return remark.file, remark.line or 0, remark.reason


def _partial_name(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _claim_partial_folder(folder: Path) -> tuple[Path, int]:
    """Make and lock the empty hidden folder for this target. Returns it and its open descriptor,
    which holds the lock."""
    partial = _partial_name(folder)
    partial.parent.mkdir(parents=True, exist_ok=True)
    while True:
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise UserError(f"another run is writing {folder} just now; wait for it or give "
                            "another --out_folder") from None
        # between opening and locking, the other run may have put its folder in place
        if partial.exists() and os.path.samestat(os.fstat(lock), os.stat(partial)):
            break
        os.close(lock)
    strange = sorted(set(os.listdir(partial)) - set(STORE_FILES))
    if strange:
        os.close(lock)
        raise UserError(f"{partial} holds {strange[0]}, which no run of this program left there; "
                        "move it away")
    for name in os.listdir(partial):  # a run that was killed
        (partial / name).unlink()
    return partial, lock


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename the whole store to its place, taking an old one away first."""
    replaced = folder.with_name(f".{folder.name}.replaced")
    if replaced.exists():  # a run killed between the renames below
        shutil.rmtree(replaced)
    if (folder / INFO_FILE).is_file():
        os.rename(folder, replaced)
    try:
        os.rename(partial, folder)
    except OSError:
        if replaced.exists():
            os.rename(replaced, folder)
        raise
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _flush_to_disk(file: io.IOBase) -> None:
    file.flush()
    os.fsync(file.fileno())


def _npy_header(num_frames: int) -> bytes:
    """The head of ``frames.npy``, always of the same length: it is written last, over zeros."""
    shape = (num_frames, *FRAME_SHAPE)
    text = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode("ascii")
    room = _NPY_HEADER_BYTES - len(b"\x93NUMPY\x01\x00") - 2
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"
