"""What the contrast sees: a clip, and the augmented views of it that pretraining tells to be the same."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from dataset.augment import WholeClip
from dataset.clips import ClipSet
from dataset.views import View

from .camera import place_camera
from .skeleton import draw_clip

SIZE = 200  # pixels of a drawn frame


def draw_views(
    clips: ClipSet, index: int, view: View, count: int, source: Generator,
    size: int = SIZE, frames: Tensor | None = None,
) -> tuple[list[Tensor], list[list[str]]]:
    """A clip and ``count`` random views of it, drawn alike, and lines that describe each.

    Each drawing is uint8 ``(T, 3, size, size)`` of all ``view.num_frames`` frames or of
    those in ``frames`` (T,); the first is the whole clip, resized. In a view, the crop before the
    spatial augmentation is grey, jittered joints marked.
    """
    at, length = torch.tensor([index]), clips.num_frames[[index]].cpu()
    whole = View(WholeClip(), num_frames=view.num_frames).of(clips, at)[0]
    panels, lines = [(whole.cpu(), None, None)], [[f"the clip, {int(length)} frames"]]
    for number in range(1, count + 1):
        parameters = view.sample(length, source)
        text = view.describe(parameters, 0)
        augmented = view.apply(clips, at, parameters).cpu()[0]
        crop, changed = None, None
        if view.spatial is not None:
            crop = replace(view, spatial=None).apply(clips, at, parameters).cpu()[0]
            changed = view.spatial.changed_joints(parameters.spatial, 0)
        panels.append((augmented, crop, None if changed is None or changed.all() else changed))
        lines.append([f"view {number}: {text[0]}", *text[1:]])
    if frames is not None:
        panels = [
            (clip[frames], None if ghost is None else ghost[frames], marked)
            for clip, ghost, marked in panels
        ]
    camera = place_camera([clip for panel in panels for clip in panel[:2] if clip is not None])
    pictures = [draw_clip(clip, size, camera, ghost, marked) for clip, ghost, marked in panels]
    return pictures, lines
