"""Views of clips, a batch at a time: crop, resize, augment.

    view(clip) = spatial(resize(crop(clip)))

A view is ``(N, T, V, 3, M)``: clips, frames, joints, coordinates, people; ``models.registry``
lays it out for the encoders. Parameters are sampled on the CPU, whatever device the clips are on, so
a seed gives the same views everywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from facts.datasets import NUM_FRAMES
from facts.skeletons import KINECT_V2, Skeleton
from utils.errors import UserError

from .augment import (
    CROP,
    PAPER_SPATIAL,
    SPATIAL,
    CenterCrop,
    Crop,
    CropParameters,
    OneOf,
    RandomCrop,
    SpatialParameters,
    WholeClip,
    augmentation_names,
)
from .clips import ClipSet

# Shortest crop on which a classifier is trained: fraction of the clip, frames.
CLASSIFIER_MIN_RATIO, CLASSIFIER_MIN_FRAMES = 0.5, 64


@dataclass(frozen=True)
class ViewParameters:
    """The sampled parameters of one view per clip."""

    crop: CropParameters
    spatial: SpatialParameters | None

    def __getitem__(self, rows: slice | Tensor) -> ViewParameters:
        crop = CropParameters(self.crop.start[rows], self.crop.length[rows])
        return ViewParameters(crop, None if self.spatial is None else self.spatial[rows])


@dataclass(frozen=True)
class View:
    """How a view is made of a clip: a temporal crop, a resize and at most one spatial augmentation."""

    crop: Crop
    spatial: OneOf | None = None
    num_frames: int = NUM_FRAMES

    def sample(self, clips: ClipSet, index: Tensor, generator: Generator | None = None) -> ViewParameters:
        """Sample the parameters of the clips ``index`` (N,); deterministic views need no generator."""
        crop = self.crop.sample(clips.num_frames[index], generator)
        if self.spatial is None:
            return ViewParameters(crop, None)
        return ViewParameters(crop, self.spatial.sample(len(index), clips.skeleton.num_joints, generator))

    def apply(self, clips: ClipSet, index: Tensor, parameters: ViewParameters) -> Tensor:
        """Return views ``(N, T, V, 3, M)`` of the clips ``index`` (N,), on the device of the clips."""
        crop = parameters.crop
        batch = crop_and_resize(clips, index, crop.start, crop.length, self.num_frames)
        if self.spatial is None or parameters.spatial is None:
            return batch
        return self.spatial.apply(batch, parameters.spatial)

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
        if self.spatial is not None and parameters.spatial is not None:
            lines.append(self.spatial.describe(parameters.spatial, clip))
        return lines


@dataclass(frozen=True)
class AugmentationSettings:
    """The augmentation flags of pretraining; the defaults are those of the official code."""

    names: Sequence[str] = (CROP, *PAPER_SPATIAL)
    min_crop_ratio: float = 0.1
    min_crop_frames: int = 64
    jitter_joints: int = 15
    jitter_zero_prob: float = 0.5

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> AugmentationSettings:
        """Return the values of the flags, with their defaults filled in."""
        return cls(
            args.augmentations,
            args.min_crop_ratio,
            args.min_crop_frames,
            args.jitter_joints,
            args.jitter_zero_prob,
        )


def pretraining_view(
    settings: AugmentationSettings = AugmentationSettings(),
    num_frames: int = NUM_FRAMES,
    skeleton: Skeleton = KINECT_V2,
) -> View:
    """Return the random view that pretraining contrasts (section 3.4).

    Without any augmentation it is the whole clip, resized (Table 5).
    """
    if unknown := set(settings.names) - set(augmentation_names()):
        raise UserError(
            f"--augmentations {' '.join(sorted(unknown))}: choose from {', '.join(augmentation_names())}"
        )
    crop = RandomCrop(settings.min_crop_ratio, settings.min_crop_frames)
    arguments = {"jitter": {"num_jittered": settings.jitter_joints, "zero_prob": settings.jitter_zero_prob}}
    spatial = {name: kind(**arguments.get(name, {})) for name, kind in SPATIAL.items()}
    if settings.jitter_joints > skeleton.num_joints:
        raise UserError(
            f"--jitter-joints {settings.jitter_joints} must be at most {skeleton.num_joints}, the joints of "
            f"{skeleton.name}"
        )
    enabled = tuple(spatial[name] for name in SPATIAL if name in settings.names)
    return View(
        crop if CROP in settings.names else WholeClip(), OneOf(enabled) if enabled else None, num_frames
    )


def classifier_view(num_frames: int = NUM_FRAMES) -> View:
    """Return the view for training classifiers: a random crop of at least half of the clip."""
    return View(RandomCrop(CLASSIFIER_MIN_RATIO, CLASSIFIER_MIN_FRAMES), num_frames=num_frames)


def evaluation_view(num_frames: int = NUM_FRAMES) -> View:
    """Return the deterministic view for evaluation: the center crop."""
    return View(CenterCrop(), num_frames=num_frames)


def resize_positions(length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sampling positions for resizing crops of ``length`` (N,) frames to ``size`` frames.

    Linear interpolation with half-pixel centers, as ``F.interpolate(align_corners=False)``.

    Returns:
        The previous and the next frame, ``(N, size)`` integers, and the weight of the next one.
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
