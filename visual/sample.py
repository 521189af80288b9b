"""A sample of augmented views for TensorBoard, as a pretraining begins."""

from __future__ import annotations

import torch
from torch.utils.tensorboard import SummaryWriter

from dataset.augment import Augmentation
from dataset.clips import ClipSet
from engine.randomness import PICTURES, generator

from .packages import SKELETONS, why_not
from .views import draw_views

CLIPS, FRAMES, VIEWS = 2, 6, 2  # drawing a frame takes some 15 ms


def show_views(writer: SummaryWriter, clips: ClipSet, augmentation: Augmentation, seed: int) -> None:
    """A few clips, each above two views of it; a line says so where nothing can be drawn."""
    if reason := why_not(SKELETONS):
        print(f"note: no sample of views in TensorBoard: {reason}")
        return
    source = generator(seed, PICTURES)
    for index in torch.randperm(len(clips), generator=source)[:CLIPS].tolist():
        if not all_finite(clips, index):  # the run itself will say so, with more to go on
            print(f"note: {clips.names[index]} is not drawn: some of its coordinates are no numbers")
            continue
        frames = torch.linspace(0, augmentation.num_frames - 1, FRAMES).long()
        pictures, _ = draw_views(clips, index, augmentation, VIEWS, source, frames=frames)
        rows = [torch.cat(list(picture), dim=2) for picture in pictures]  # 3 x height x width
        writer.add_image(f"views/{clips.names[index]}", torch.cat(rows, dim=1))


def all_finite(clips: ClipSet, index: int) -> bool:
    frames = torch.arange(int(clips.num_frames[index]), device=clips.frames.device)
    clip = torch.tensor([index], device=clips.frames.device)
    return bool(clips.gather(clip, frames[None]).isfinite().all())
