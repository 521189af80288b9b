"""Views of clips, a batch at a time: crop, resize, augment.

    view(clip) = augment(resize(crop(clip)))

A view is ``(N, T, V, 3, M)``: clips, frames, joints, coordinates, people; ``models.registry``
lays it out for the encoders. Parameters are sampled on the CPU, whatever device the clips are on, so
a seed gives the same views everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Generator, Tensor

from facts.datasets import NUM_FRAMES
from facts.skeletons import KINECT_V2, Skeleton
from utils.class_flags import from_flags
from utils.errors import UserError

from .augment import (
    AUGMENTATIONS,
    PAPER_SPATIAL,
    CenterCrop,
    Composition,
    CompositionParameters,
    Crop,
    CropParameters,
    Parameters,
    RandomCrop,
    ViewShape,
    WholeClip,
)
from .clips import ClipSet

# Shortest crop on which a classifier is trained: fraction of the clip, frames.
CLASSIFIER_MIN_RATIO, CLASSIFIER_MIN_FRAMES = 0.5, 64


@dataclass(frozen=True)
class ViewParameters(Parameters):
    """The sampled parameters of one view per clip."""

    crop: CropParameters
    augmentations: CompositionParameters | None

    def __getitem__(self, rows: slice | Tensor) -> ViewParameters:
        augmentations = self.augmentations
        return ViewParameters(self.crop[rows], None if augmentations is None else augmentations[rows])


@dataclass(frozen=True)
class View:
    """How a view is made of a clip: a temporal crop, a resize, and augmentations of the resized frames."""

    crop: Crop
    augmentations: Composition | None = None
    num_frames: int = NUM_FRAMES

    def sample(self, clips: ClipSet, index: Tensor, generator: Generator | None = None) -> ViewParameters:
        """Sample the parameters of the clips ``index`` (N,); deterministic views need no generator."""
        crop = self.crop.sample(clips.num_frames[index], generator)
        if self.augmentations is None:
            return ViewParameters(crop, None)
        shape = ViewShape(len(index), self.num_frames, clips.skeleton)
        return ViewParameters(crop, self.augmentations.sample(shape, generator))

    def apply(self, clips: ClipSet, index: Tensor, parameters: ViewParameters) -> Tensor:
        """Return views ``(N, T, V, 3, M)`` of the clips ``index`` (N,), on the device of the clips."""
        crop = parameters.crop
        batch = crop_and_resize(clips, index, crop.start, crop.length, self.num_frames)
        if self.augmentations is None or parameters.augmentations is None:
            return batch
        return self.augmentations.apply(batch, parameters.augmentations)

    def of(
        self,
        clips: ClipSet,
        index: Tensor,
        generator: Generator | None = None,
        shard: slice = slice(None),
    ) -> Tensor:
        """Sample and apply: one view of each clip of ``index`` (N,), ``(N, T, V, 3, M)``.

        With a ``shard`` of the batch only its views are made, equal to those in the whole batch.
        """
        parameters = self.sample(clips, index, generator)
        return self.apply(clips, index[shard], parameters[shard])

    def describe(self, parameters: ViewParameters, clip: int) -> list[str]:
        """Describe the view of one clip of the batch in caption lines; frames are counted from 1."""
        start, length = int(parameters.crop.start[clip]), int(parameters.crop.length[clip])
        lines = [f"frames {start + 1}-{start + length}"]
        if self.augmentations is not None and parameters.augmentations is not None:
            lines += self.augmentations.describe(parameters.augmentations, clip)
        return lines


PAPER_AUGMENTATIONS = (RandomCrop.name, *(kind.name for kind in PAPER_SPATIAL))


def pretraining_view(
    flags: Mapping[str, Any] = MappingProxyType({}),
    num_frames: int = NUM_FRAMES,
    skeleton: Skeleton = KINECT_V2,
) -> View:
    """Return the random view that pretraining contrasts (section 3.4); ``UserError`` for an invalid flag.

    ``flags`` are ``augmentations`` (names), and those of the augmentations and of ``Composition``; missing or
    None ones have the values of the paper, others are ignored. Without any augmentation the view is the
    whole clip, resized (Table 5).
    """
    names = flags.get("augmentations", PAPER_AUGMENTATIONS)
    if unknown := set(names) - set(AUGMENTATIONS):
        raise UserError(
            f"--augmentations {' '.join(sorted(unknown))}: choose from {', '.join(AUGMENTATIONS)}"
        )
    made = {name: from_flags(kind, flags) for name, kind in AUGMENTATIONS.items()}
    crop = made.pop(RandomCrop.name)
    enabled = tuple(augmentation for name, augmentation in made.items() if name in names)
    try:
        for augmentation in enabled:
            augmentation.check(skeleton)
    except ValueError as error:
        raise UserError(str(error)) from error
    return View(
        crop if RandomCrop.name in names else WholeClip(),
        from_flags(Composition, flags, enabled=enabled) if enabled else None,
        num_frames,
    )


def classifier_view(num_frames: int = NUM_FRAMES) -> View:
    """Return the view for training classifiers: a random crop of at least half of the clip."""
    return View(RandomCrop(CLASSIFIER_MIN_RATIO, CLASSIFIER_MIN_FRAMES), num_frames=num_frames)


def evaluation_view(num_frames: int = NUM_FRAMES) -> View:
    """Return the deterministic view for evaluation: the center crop."""
    return View(CenterCrop(), num_frames=num_frames)


def resize_positions(length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return how crops of ``length`` (N,) frames are resized: previous frame, next frame, its weight.

    All are ``(N, size)``. Linear interpolation with half-pixel centers, as
    ``F.interpolate(align_corners=False)``.
    """
    centers = torch.arange(size, dtype=torch.float64, device=length.device) + 0.5
    position = (centers * (length[:, None].double() / size) - 0.5).clamp(min=0.0)
    before = position.long()
    after = torch.minimum(before + 1, length[:, None] - 1)
    return before, after, (position - before).float()


def crop_and_resize(
    clips: ClipSet, index: Tensor, start: Tensor, length: Tensor, size: int = NUM_FRAMES
) -> Tensor:
    """Crop the clips ``index`` (N,) and resize them to ``size`` frames: ``(N, size, V, 3, M)``.

    Only the interpolated frames are read, so a batch is one weighted gather.
    """
    device = clips.frames.device
    index, start, length = (x.to(device, non_blocking=True) for x in (index, start, length))
    before, after, weight = resize_positions(length, size)
    return clips.blend(index, start[:, None] + before, start[:, None] + after, weight)
