"""Semi-supervised training: which clips of the training split keep their label (Table 2).

Clips are drawn in the order of their names, so a seed means the same clips in whatever order and
layout they are stored. Of one seed, a smaller fraction's clips are among a larger one's.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import torch
from torch import Generator, Tensor

from .clips import ClipSet

SAMPLINGS = ("balanced", "uniform")


def fraction_of(count: int, fraction: float) -> int:
    """``fraction`` of ``count`` clips, halves rounded up, at least one where there is one.

    The fraction is taken as it is written in decimals: 0.29 of 50 are 14.5 clips, so 15.
    """
    exact = Fraction(str(fraction)) * count
    return min(max(math.floor(exact + Fraction(1, 2)), 1), count)


def sample_labelled(clips: ClipSet, fraction: float, sampling: str, generator: Generator) -> Tensor:
    """Positions of the clips that keep their label, ascending: (K,) int64.

    Args:
        clips: the training split.
        fraction: in (0, 1].
        sampling: ``balanced`` takes ``fraction_of`` each class's clips, so at least one of every class
            that has one; ``uniform`` takes ``fraction_of`` all clips, whatever their class.
        generator: decides which.
    """
    by_name = sorted(range(len(clips)), key=clips.names.__getitem__)
    order = torch.tensor(by_name)[torch.randperm(len(clips), generator=generator)]
    if sampling == "uniform":
        return order[: fraction_of(len(clips), fraction)].sort().values
    labels = clips.labels[order]
    groups = [order[labels == label] for label in labels.unique()]
    return torch.cat([group[: fraction_of(len(group), fraction)] for group in groups]).sort().values


def keep_clips(clips: ClipSet, index: Tensor) -> ClipSet:
    """The clips at ``index`` (K,) as a split of their own.

    A store's frames are shared. Those of the released layout are copied, 180 kB a clip.
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


def classes_without_clip(train: ClipSet, val: ClipSet) -> list[int]:
    """Classes that ``val`` has clips of and ``train`` has none of, from zero, ascending."""
    return sorted(set(val.labels.tolist()) - set(train.labels.tolist()))
