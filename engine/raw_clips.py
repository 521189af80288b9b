"""Recordings that belong to no store, as clips: ``.skeleton`` files and arrays, normalised alike."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from tqdm import tqdm

from data_gen.errors import BadFile
from data_gen.normalise import clip_frames
from data_gen.own_clips import frames_of_array
from data_gen.skeleton_file import read_skeleton
from data_gen.sources import RawFile, find_files
from data_gen.store_writer import Remark
from dataset.clips import ClipSet
from options.errors import UserError

SUFFIXES = (".skeleton", ".npy", ".npz")


@dataclass(frozen=True)
class Recording:
    """One clip: ``frames`` float32 (frames, 25, 3, 2), and the names it may go by."""

    name: str
    shown: str  # with its folder or archive, where the name alone is not enough
    frames: np.ndarray


def read_arrays(data: bytes, suffix: str) -> dict[str, np.ndarray]:
    """The array of a ``.npy``, named "", or those of a ``.npz`` by their names."""
    try:
        content = np.load(io.BytesIO(data), allow_pickle=False)
        return {"": content} if suffix == ".npy" else dict(content)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadFile(f"it cannot be read as an array of numbers ({error})") from error


def read_file(file: RawFile, suffix: str) -> tuple[list[Recording], list[Remark]]:
    """The clips in one file, and why there are not more."""
    try:
        data = file.read()
        if suffix == ".skeleton":
            return [Recording(file.name, file.shown, clip_frames(read_skeleton(data)[0]))], []
        arrays = read_arrays(data, suffix)
    except BadFile as error:
        return [], [Remark(file.shown, error.line, error.reason)]
    found, left_out = [], []
    for name, array in arrays.items():
        shown = f"{file.shown}/{name}" if name else file.shown
        try:
            found.append(Recording(name or file.name, shown, frames_of_array(array)))
        except BadFile as error:
            left_out.append(Remark(shown, None, error.reason))
    return found, left_out


def read_raw_clips(roots: Sequence[str | Path], flag: str) -> tuple[ClipSet, list[Remark]]:
    """All recordings in files, folders and zip archives, and those left out, with the reason.

    Their labels are -1. A name that occurs twice is given with its folder or archive.

    Raises:
        UserError: a root does not exist, or nothing in them can be used; names ``flag``.
    """
    files = [(file, suffix) for suffix in SUFFIXES for file in find_files(roots, suffix, flag)]
    recordings: list[Recording] = []
    left_out: list[Remark] = []
    for file, suffix in tqdm(files, desc="reading", leave=False, disable=None, unit="file"):
        found, remarks = read_file(file, suffix)
        recordings += found
        left_out += remarks
    if not recordings:
        reason = f"the first reason: {left_out[0]}" if left_out else f"no {', '.join(SUFFIXES)} file"
        raise UserError(f"{flag} {' '.join(map(str, roots))}: no recording can be used; {reason}")
    count = Counter(recording.name for recording in recordings)
    lengths = torch.tensor([len(recording.frames) for recording in recordings])
    clips = ClipSet(
        dataset="", protocol="", split="recordings", num_classes=0,
        names=[x.name if count[x.name] == 1 else x.shown for x in recordings],
        labels=torch.full((len(recordings),), -1),
        num_frames=lengths,
        frames=torch.from_numpy(np.concatenate([recording.frames for recording in recordings])),
        first_frame=lengths.cumsum(0) - lengths,
        source=" ".join(map(str, roots)),
    )
    return clips, left_out
