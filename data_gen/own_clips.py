"""Your own clips as a store, from Python:

    from data_gen.own_clips import Clip, write_store

    write_store("data/mine", num_classes=2, protocols=["cross_subject"], clips=[
        Clip("walk-anna", 0, array, {"cross_subject": "train"}),
        Clip("wave-ben", 1, other, {"cross_subject": "val"}),
    ])

An array is (frames, 25, 3, people): metres, in the order of joints of Kinect v2, zero where a
joint or a person is not seen. ``data_gen/arrays_gendata.py`` does the same from files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Iterable, Sequence

import numpy as np

from data_gen.errors import BadFile
from data_gen.normalise import clip_frames
from data_gen.store_writer import Clip, StoreWriter
from options.datasets import NUM_COORDINATES, NUM_JOINTS, NUM_PEOPLE


def write_store(folder: str | Path, clips: Iterable[Clip], num_classes: int,
                protocols: Sequence[str], normalise: bool = True, overwrite: bool = False) -> None:
    """Write clips, whose ``frames`` are (frames, 25, 3, people), as the store ``folder``.

    clips: a list, or an iterator that yields them in the order of their names so that they need
        not all be in memory; labels count from 0; ``splits`` maps protocols to "train" or "val".
    normalise: choose two people, centre and turn every clip as for NTU RGB+D. Without it, at most
        two people, and the coordinates are stored as they are.
    overwrite: replace a store that is there already.

    Raises ValueError for a clip that cannot be stored and options.errors.UserError for a folder
    that cannot be written; in both cases nothing is left there.
    """
    if isinstance(clips, (list, tuple)):
        clips = sorted(clips, key=lambda clip: clip.name)
    folder = Path(folder)
    with StoreWriter(folder, folder.name, num_classes, protocols,
                     {"script": "data_gen.own_clips.write_store", "normalise": normalise},
                     overwrite) as store:
        for clip in clips:
            try:
                store.add(replace(clip, frames=frames_of_array(clip.frames, normalise)))
            except BadFile as error:
                raise ValueError(f"clip {clip.name}: {error.reason}") from error


def frames_of_array(array: np.ndarray, normalise: bool = True) -> np.ndarray:
    """(frames, 25, 3, people) or, for one person, (frames, 25, 3) -> float32 (frames, 25, 3, 2).

    Raises BadFile where the array has another shape, no numbers, or no body in any frame.
    """
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[1:3] != (NUM_JOINTS, NUM_COORDINATES) or 0 in array.shape:
        raise BadFile(f"the array is {array.shape} instead of (frames, {NUM_JOINTS}, "
                      f"{NUM_COORDINATES}, people)")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise BadFile("the array holds values that are not finite numbers")
    if normalise:
        return clip_frames(array.astype(np.float64).transpose(3, 0, 1, 2))
    if array.shape[-1] > NUM_PEOPLE:
        raise BadFile(f"the array has {array.shape[-1]} people; without normalisation, which "
                      f"chooses among them, at most {NUM_PEOPLE}")
    frames = np.zeros((*array.shape[:3], NUM_PEOPLE), dtype=np.float32)
    with np.errstate(over="ignore"):  # the next line reports it
        frames[..., :array.shape[-1]] = array
    if not np.isfinite(frames).all():
        raise BadFile("a coordinate is too large")
    return frames
