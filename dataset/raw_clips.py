"""Reading raw clips that are not part of a store: ``.skeleton`` files and arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_gen.normalize import normalize_clip
from data_gen.own_clips import frames_of_array
from data_gen.skeleton_file import read_skeleton
from data_gen.sources import Issue, RawFile, find_raw_files, first_reason, load_contents
from data_gen.units import body_size, unit_warning
from dataset.clips import ClipSet
from facts.skeletons import KINECT_V2, Skeleton
from utils.errors import BadFile, UserError

SUFFIXES = ".skeleton", ".npy"


@dataclass(frozen=True)
class RawClip:
    """A normalized clip: ``frames`` is (frames, V, 3, 2) float32.

    ``path`` includes the folder or archive; it is shown if ``name`` is not unique.
    """

    name: str
    path: str
    frames: np.ndarray
    body_size: float = 0.0  # of arrays, see data_gen.units


def read_clip(file: RawFile, skeleton: Skeleton, normalize: bool) -> RawClip:
    """Read the clip in a file. Raises ``BadFile`` if it is not one of this skeleton."""
    if file.suffix == ".npy":
        array = file.read_array()
        frames = frames_of_array(array, normalize, skeleton)
        return RawClip(file.name, file.display_name, frames, body_size(array, skeleton))
    if skeleton != KINECT_V2 or not normalize:
        taken = f"{skeleton}{'' if normalize else ' in coordinates that are not normalized'}"
        raise BadFile(f"it contains the skeleton {KINECT_V2}, but the encoders take {taken}; give arrays")
    return RawClip(file.name, file.display_name, normalize_clip(read_skeleton(file.read())[0]))


def read_raw_clips(
    roots: Sequence[str | Path], flag: str, skeleton: Skeleton = KINECT_V2, normalize: bool = True
) -> tuple[ClipSet, list[Issue]]:
    """Read all clips in files, folders and archives; also returns an issue for each one left out.

    Labels are -1. A name that occurs twice is replaced by the path, which includes folder or archive.

    Args:
        roots: files, folders and archives; an .npz file counts as an archive of arrays.
        flag: the flag that they come from, for error messages.
        skeleton: the skeleton of the clips; others are left out.
        normalize: as for the clips of a store; False: as with ``--keep_coordinates``.

    Raises:
        UserError: a root does not exist, or no clip can be used.
    """
    left_out: list[Issue] = []
    clips: list[RawClip] = []
    files = find_raw_files(roots, SUFFIXES, flag, left_out)
    files.sort(key=lambda file: SUFFIXES.index(file.suffix))
    for file in tqdm(load_contents(files), desc="reading", leave=False, disable=None, unit="file"):
        try:
            clips.append(read_clip(file, skeleton, normalize))
        except BadFile as error:
            left_out.append(Issue.of(error, file.display_name))
    if warning := unit_warning(clip.body_size for clip in clips):
        print(f"WARNING: {warning}")
    if not clips:
        reason = first_reason(left_out) or f"; no {', '.join(SUFFIXES)} or .npz file"
        raise UserError(f"{flag} {' '.join(map(str, roots))}: no clip can be used{reason}")
    count = Counter(clip.name for clip in clips)
    lengths = torch.tensor([len(clip.frames) for clip in clips])
    clip_set = ClipSet(
        dataset="",
        protocol="",
        split="raw",
        num_classes=0,
        names=[clip.name if count[clip.name] == 1 else clip.path for clip in clips],
        labels=torch.full((len(clips),), -1),
        num_frames=lengths,
        frames=torch.from_numpy(np.concatenate([clip.frames for clip in clips])),
        first_frame=lengths.cumsum(0) - lengths,
        source=" ".join(map(str, roots)),
        skeleton=skeleton,
    )
    return clip_set, left_out
