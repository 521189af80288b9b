"""What the contrast sees: a clip, and the augmented views of it that pretraining tells to be the same."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from dataset.augment import Augmentation, JointMaps, map_joints
from dataset.clips import ClipSet
from dataset.crop import cut_and_resize
from dataset.views import draw_pretraining_view

from .camera import place_camera
from .skeleton import draw_clip

SIZE = 200  # pixels of a drawn frame


def describe_view(start: int, length: int, maps: JointMaps | None) -> list[str]:
    """Lines that say what a view of one clip underwent."""
    lines = [f"frames {start + 1}-{start + length}"]
    if maps is None:
        return lines
    matrix, joints = maps.matrix[0], maps.joints[0]
    if joints.all() and (matrix.diagonal() == 1).all():
        return [*lines, "pose: sheared"]
    change = "moved" if matrix.any() else "set to zero"
    return [*lines, f"jitter: {int(joints.sum())} joints {change}"]


def draw_views(
    clips: ClipSet, index: int, augmentation: Augmentation, count: int, source: Generator,
    size: int = SIZE, frames: Tensor | None = None,
) -> tuple[list[Tensor], list[list[str]]]:
    """A clip and ``count`` random views of it, drawn alike, and lines that describe each.

    Each drawing is uint8 ``(T, 3, size, size)`` of all ``augmentation.num_frames`` frames or of
    those in ``frames`` (T,); the first is the whole clip, resized. In a view, the crop before the
    spatial augmentation is grey, jittered joints marked.
    """
    at, length = torch.tensor([index]), clips.num_frames[[index]].cpu()
    whole = cut_and_resize(clips, at, torch.zeros_like(length), length, augmentation.num_frames)[0]
    panels, lines = [(whole.cpu(), None, None)], [[f"the clip, {int(length)} frames"]]
    for number in range(1, count + 1):
        start, cut, maps = draw_pretraining_view(length, augmentation, source)
        crop = cut_and_resize(clips, at, start, cut, augmentation.num_frames).cpu()
        text = describe_view(int(start), int(cut), maps)
        view = crop if maps is None else map_joints(crop, maps)
        jittered = maps.joints[0] if maps is not None and "jitter" in text[-1] else None
        panels.append((view[0], None if maps is None else crop[0], jittered))
        lines.append([f"view {number}: {text[0]}", *text[1:]])
    if frames is not None:
        panels = [
            (clip[frames], None if ghost is None else ghost[frames], marked)
            for clip, ghost, marked in panels
        ]
    camera = place_camera([clip for panel in panels for clip in panel[:2] if clip is not None])
    pictures = [draw_clip(clip, size, camera, ghost, marked) for clip, ghost, marked in panels]
    return pictures, lines
