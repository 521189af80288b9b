"""The views that pretraining, classifier training and evaluation ask for, a batch at a time.

    view(clip) = layout(spatial(resize(crop(clip))))

A view is ``(N, T, V, 3, M)``: clips, frames, joints, coordinates, people. Parameters are drawn on
the CPU, whatever device holds the clips, so that a seed means the same views everywhere.
"""

from __future__ import annotations

from torch import Generator, Tensor

from options.datasets import NUM_JOINTS

from .augment import Augmentation, JointMaps, draw_spatial, map_joints
from .clips import ClipSet
from .crop import NUM_FRAMES, centre_crop, cut_and_resize, draw_crop, whole_clip


def draw_pretraining_view(
    num_frames: Tensor, augmentation: Augmentation, generator: Generator
) -> tuple[Tensor, Tensor, JointMaps | None]:
    """What a random view of clips of ``num_frames`` (N,) undergoes: crop start and length, maps."""
    start, length = whole_clip(num_frames)
    if "crop" in augmentation.kinds:
        start, length = draw_crop(
            num_frames, generator, augmentation.min_crop_ratio, augmentation.min_crop_frames
        )
    return start, length, draw_spatial(len(num_frames), NUM_JOINTS, augmentation, generator)


def pretraining_view(
    clips: ClipSet, index: Tensor, augmentation: Augmentation, generator: Generator,
    share: slice = slice(None),
) -> Tensor:
    """One random view of each clip of ``index`` (N,): ``(N, T, V, 3, M)``.

    With a ``share`` of the batch only its views are made, the same as in the whole batch.
    """
    num_frames = clips.num_frames[index]
    start, length, maps = draw_pretraining_view(num_frames, augmentation, generator)
    batch = cut_and_resize(clips, index[share], start[share], length[share], augmentation.num_frames)
    if maps is None:
        return batch
    return map_joints(batch, JointMaps(maps.matrix[share], maps.joints[share]))


def classifier_view(
    clips: ClipSet, index: Tensor, generator: Generator, num_frames: int = NUM_FRAMES
) -> Tensor:
    """A crop of at least half of each clip, as a classifier is trained on: ``(N, T, V, 3, M)``."""
    lengths = clips.num_frames[index]
    start, length = draw_crop(lengths, generator, min_ratio=0.5, min_frames=NUM_FRAMES)
    return cut_and_resize(clips, index, start, length, num_frames)


def evaluation_view(clips: ClipSet, index: Tensor, num_frames: int = NUM_FRAMES) -> Tensor:
    """The centre of each clip, nothing random: ``(N, T, V, 3, M)``."""
    start, length = centre_crop(clips.num_frames[index])
    return cut_and_resize(clips, index, start, length, num_frames)
