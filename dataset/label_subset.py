"""Label subsets for semi-supervised training (Table 2).

Clips are sampled in the order of their names, so a seed selects the same clips in any storage order
and layout. For the same seed, the subset of a smaller fraction is contained in that of a larger one.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import torch
from torch import Generator, Tensor

from utils.errors import UserError

from .clips import ClipSet
from .store_format import NO_LABEL


def fraction_of(count: int, fraction: float) -> int:
    """Return ``fraction`` of ``count`` clips, rounded half up, but at least one if there are any.

    The fraction is read as a decimal number, not as a binary one: 0.29 of 50 is 14.5, rounded to 15.
    """
    exact = Fraction(str(fraction)) * count
    return min(max(math.floor(exact + Fraction(1, 2)), 1), count)


def sample_labeled(clips: ClipSet, fraction: float, sampling: str, generator: Generator) -> Tensor:
    """Sample the clips that keep their label; returns their indices ``(K,)``, ascending.

    ``fraction`` is in (0, 1]. The sampling ``balanced`` keeps ``fraction_of`` the clips of each class, so at
    least one per class; ``uniform`` keeps ``fraction_of`` all clips.
    """
    by_name = sorted(range(len(clips)), key=clips.names.__getitem__)
    order = torch.tensor(by_name)[torch.randperm(len(clips), generator=generator)]
    if sampling == "uniform":
        return order[: fraction_of(len(clips), fraction)].sort().values
    labels = clips.labels[order]
    groups = [order[labels == label] for label in labels.unique()]
    return torch.cat([group[: fraction_of(len(group), fraction)] for group in groups]).sort().values


def keep_clips(clips: ClipSet, index: Tensor) -> ClipSet:
    """Return the clips at ``index`` (K,) as a new set.

    Frames of a store are shared; those of the official layout are copied, 180 kB per clip.
    """
    frames, first_frame = clips.frames, clips.first_frame
    here = index.to(frames.device)
    return dataclasses.replace(
        clips,
        names=[clips.names[i] for i in index.tolist()],
        labels=clips.labels[index],
        num_frames=clips.num_frames[index],
        frames=frames[here] if first_frame is None else frames,
        first_frame=None if first_frame is None else first_frame[here],
    )


def labeled_clips(clips: ClipSet, task: str) -> ClipSet:
    """Return the clips that have a label, with a note if there are others; ``UserError`` if none has one."""
    index = (clips.labels != NO_LABEL).nonzero()[:, 0]
    if not len(index):
        raise UserError(
            f"{task} needs labels, but the '{clips.split}' clips of {clips.dataset} {clips.protocol} have "
            "none; prepare the store with labels (docs/data.md)"
        )
    if len(index) == len(clips):
        return clips
    missing = len(clips) - len(index)
    print(f"note: {missing} of {len(clips)} '{clips.split}' clips have no label and are not used")
    return keep_clips(clips, index)


def classes_without_clip(train: ClipSet, val: ClipSet) -> list[int]:
    """Return the classes (0-based, ascending) with validation clips but without training clips."""
    return sorted(set(val.labels.tolist()) - set(train.labels.tolist()))
