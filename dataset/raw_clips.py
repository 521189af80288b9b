"""Clips that are not part of a store: ``.skeleton`` files and arrays, in files or in memory."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

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
from dataset.store import is_store, open_store
from dataset.store_format import NO_LABEL
from facts.datasets import MAX_FRAMES
from facts.skeletons import KINECT_V2, Skeleton
from utils.errors import BadFile, UserError

SUFFIXES = ".skeleton", ".npy"


class Span(NamedTuple):
    """The frames of a file from ``start`` to before ``stop``, counted from 0."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class RawClips(ClipSet):
    """Clips without labels, and what each of them is."""

    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class StoredClip(RawFile):
    """A clip of a store, in place of a file; ``array`` is (frames, V, coordinates, 2 people)."""

    array: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)

    def read_array(self) -> np.ndarray:
        return self.array


def mismatch(found: Skeleton, skeleton: Skeleton, normalize: bool) -> str:
    """Return the end of an error message about clips that the encoders do not take."""
    taken = f"{skeleton}, {'' if normalize else 'not '}normalized"
    return f"contains the skeleton {found}, but the encoders take {taken}"


def clips_of_store(folder: Path, skeleton: Skeleton, normalize: bool) -> list[StoredClip]:
    """Return all clips of a store. Raises ``UserError`` if they are not what the encoders take."""
    store = open_store(folder)
    if (store.skeleton, store.normalized) != (skeleton, normalize):
        raise UserError(f"{folder} {mismatch(store.skeleton, skeleton, normalize)}")
    frames = store.frames[:, :, : skeleton.dimensions]
    ends = zip(store.names, store.first_frame, store.first_frame + store.num_frames)
    return [
        StoredClip(name, f"{folder.name}/{name}", str(folder), suffix=".npy", array=frames[first:end])
        for name, first, end in ends
    ]


def sliding_windows(num_frames: int, length: int, stride: int) -> list[slice]:
    """Return the windows of a clip, every ``stride`` frames; the last one ends with the clip."""
    last = max(num_frames - length, 0)
    starts = [*range(0, last, stride), last]
    return [slice(start, min(start + length, num_frames)) for start in starts]


def read_clips(
    file: RawFile, skeleton: Skeleton, normalize: bool, windows: tuple[int, int] | None
) -> tuple[list[Span], FileResult]:
    """Read the clip in a file, or one per window, normalized for itself; ``BadFile`` if there is none."""
    if file.suffix == ".npy":
        values = np.atleast_1d(file.read_array())
    elif skeleton != KINECT_V2 or not normalize:
        raise BadFile(f"it {mismatch(KINECT_V2, skeleton, normalize)}; give arrays")
    else:
        bodies, _ = read_skeleton(file.read(), sys.maxsize if windows else MAX_FRAMES)
        values = bodies.swapaxes(0, 1)
    spans, result, errors = [], FileResult(), []
    for frames in sliding_windows(len(values), *windows) if windows else [slice(0, len(values))]:
        clip = Clip(file.name, NO_LABEL, values[frames], {})
        try:
            if file.suffix == ".npy":
                again = normalize and not (windows is None and isinstance(file, StoredClip))
                part = prepare_clip(clip, file.display_name, again, skeleton)
            else:
                part = FileResult([replace(clip, frames=normalize_clip(clip.frames.swapaxes(0, 1)))])
        except BadFile as error:
            errors.append(error)
            continue
        spans.append(Span(file.name, frames.start, frames.stop))
        result.clips += part.clips
        result.notes += part.notes
    if not spans:
        raise errors[0]
    if errors:
        reason = f"{len(errors)} of {len(errors) + len(spans)} windows cannot be used: {errors[0].reason}"
        result.left_out.append(Issue(file.display_name, None, reason))
    return spans, result


def read_raw_clips(
    roots: Sequence[str | Path],
    flag: str,
    skeleton: Skeleton = KINECT_V2,
    normalize: bool = True,
    windows: tuple[int, int] | None = None,
) -> tuple[RawClips, list[Issue]]:
    """Read all clips of ``skeleton`` in files; also returns an issue for each one left out.

    Labels are -1. A name that occurs twice is replaced by the path, which includes folder or archive.

    Args:
        roots: files, folders, archives and stores; an .npz file counts as an archive of arrays.
        flag: the flag that they come from, for error messages.
        normalize: as for the clips of a store; False: as with ``--keep_coordinates``.
        windows: length and stride, in frames, of the clips into which a file is cut; None: it is one clip.

    Raises ``UserError`` if a root does not exist, or no clip can be used.
    """
    left_out: list[Issue] = []
    clips: list[Clip] = []
    found: dict[str, list[Span]] = {}  # path -> clips
    units = UnitCheck(skeleton)
    stores = [Path(root) for root in roots if is_store(Path(root))]
    files = find_raw_files([root for root in roots if Path(root) not in stores], SUFFIXES, flag, left_out)
    files += [clip for folder in stores for clip in clips_of_store(folder, skeleton, normalize)]
    files.sort(key=lambda file: SUFFIXES.index(file.suffix))
    for file in tqdm(load_contents(files), desc="reading", leave=False, disable=None, unit="file"):
        try:
            found[file.display_name], result = read_clips(file, skeleton, normalize, windows)
        except BadFile as error:
            left_out.append(Issue.of(error, file.display_name))
            continue
        clips += result.clips
        left_out += result.left_out
        units.add(clips[-1].frames, clips[-1].is_normalized)
        for note in result.notes:
            print(f"note: {note}")
    if warning := units.warning():
        print(f"WARNING: {warning}")
    if not clips:
        reason = first_reason(left_out) or f"; no {', '.join(SUFFIXES)} or .npz file"
        raise UserError(f"{flag} {' '.join(map(str, roots))}: no clip can be used{reason}")
    count = Counter(spans[0].file for spans in found.values())
    spans = [x if count[x.file] == 1 else x._replace(file=path) for path in found for x in found[path]]
    return clip_set(clips, spans, " ".join(map(str, roots)), skeleton, normalize), left_out


def prepare_clips(
    arrays: Mapping[str, np.ndarray] | Sequence[np.ndarray],
    skeleton: Skeleton = KINECT_V2,
    normalize: bool = True,
) -> RawClips:
    """Prepare arrays as the clips of a store are: two people, centered, rotated or scaled.

    Args:
        arrays: by name, or a list; each is (frames, V, 3, people) or (frames, V, 3) in meters, NaN or zero
            for what is missing; of a 2D skeleton x, y and optionally a score.
        skeleton: of all arrays.
        normalize: False: coordinates as they are, for encoders of a store made with ``--keep_coordinates``.

    Raises ``UserError`` if an array has another shape or no body; the message names it.
    """
    named = arrays if isinstance(arrays, Mapping) else {f"clip {i}": x for i, x in enumerate(arrays)}
    clips, units = [], UnitCheck(skeleton)
    for name, array in named.items():
        try:
            result = prepare_clip(Clip(name, NO_LABEL, np.asarray(array), {}), name, normalize, skeleton)
        except BadFile as error:
            raise UserError(f"{name}: {error.reason}") from error
        clips += result.clips
        units.add(clips[-1].frames, clips[-1].is_normalized)
    if warning := units.warning():
        warnings.warn(warning, stacklevel=2)
    spans = [Span(clip.name, 0, len(clip.frames)) for clip in clips]
    return clip_set(clips, spans, "arrays", skeleton, normalize)


def clip_set(
    clips: Sequence[Clip], spans: Sequence[Span], source: str, skeleton: Skeleton, normalized: bool
) -> RawClips:
    """Return prepared clips as a set."""
    lengths = torch.tensor([len(clip.frames) for clip in clips])
    return RawClips(
        dataset="",
        protocol="",
        split="raw",
        num_classes=0,
        names=[span.file for span in spans],
        labels=torch.full((len(clips),), NO_LABEL),
        num_frames=lengths,
        frames=torch.from_numpy(np.concatenate([clip.frames for clip in clips])),
        first_frame=lengths.cumsum(0) - lengths,
        source=source,
        skeleton=skeleton,
        normalized=normalized,
        spans=tuple(spans),
    )
