"""Reading raw clips that are not part of a store: ``.skeleton`` files and arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_gen.normalize import normalize_clip
from data_gen.own_clips import prepare_clip
from data_gen.skeleton_file import read_skeleton
from data_gen.sources import Issue, RawFile, find_raw_files, first_reason, load_contents
from data_gen.store_writer import Clip, FileResult
from data_gen.units import UnitCheck
from dataset.clips import ClipSet
from dataset.store_format import NO_LABEL
from facts.skeletons import KINECT_V2, Skeleton
from utils.errors import BadFile, UserError

SUFFIXES = ".skeleton", ".npy"


def read_clip(file: RawFile, skeleton: Skeleton, normalize: bool) -> FileResult:
    """Read the clip in a file. Raises ``BadFile`` if it is not one of this skeleton."""
    if file.suffix == ".npy":
        clip = Clip(file.name, NO_LABEL, file.read_array(), {})
        return prepare_clip(clip, file.display_name, normalize, skeleton)
    if skeleton != KINECT_V2 or not normalize:
        taken = f"{skeleton}{'' if normalize else ' in coordinates that are not normalized'}"
        raise BadFile(f"it contains the skeleton {KINECT_V2}, but the encoders take {taken}; give arrays")
    bodies, _ = read_skeleton(file.read())
    return FileResult([Clip(file.name, NO_LABEL, normalize_clip(bodies), {})])


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
    clips: list[Clip] = []
    paths: list[str] = []
    units = UnitCheck(skeleton)
    files = find_raw_files(roots, SUFFIXES, flag, left_out)
    files.sort(key=lambda file: SUFFIXES.index(file.suffix))
    for file in tqdm(load_contents(files), desc="reading", leave=False, disable=None, unit="file"):
        try:
            result = read_clip(file, skeleton, normalize)
        except BadFile as error:
            left_out.append(Issue.of(error, file.display_name))
            continue
        clips += result.clips
        paths.append(file.display_name)
        units.add(clips[-1].frames, clips[-1].is_normalized)
        for note in result.notes:
            print(f"note: {note}")
    if warning := units.warning():
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
        names=[clip.name if count[clip.name] == 1 else path for clip, path in zip(clips, paths)],
        labels=torch.full((len(clips),), NO_LABEL),
        num_frames=lengths,
        frames=torch.from_numpy(np.concatenate([clip.frames for clip in clips])),
        first_frame=lengths.cumsum(0) - lengths,
        source=" ".join(map(str, roots)),
        skeleton=skeleton,
    )
    return clip_set, left_out
