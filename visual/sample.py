"""A sample of augmented views for TensorBoard, as a pretraining begins."""

from __future__ import annotations

import torch

from dataset.clips import ClipSet
from dataset.views import View
from engine.log import RunLog
from engine.randomness import PICTURES, generator
from options.errors import UserError

from .packages import SKELETONS, why_not
from .views import draw_views

CLIPS, FRAMES, VIEWS = 2, 6, 2  # drawing a frame takes some 15 ms


def show_views(log: RunLog, clips: ClipSet, view: View, seed: int) -> None:
    """A few clips, each above two views of it; a line says so where nothing can be drawn."""
    if reason := why_not(SKELETONS):
        print(f"note: no sample of views in TensorBoard: {reason}")
        return
    source = generator(seed, PICTURES)
    for index in torch.randperm(len(clips), generator=source)[:CLIPS].tolist():
        frames = torch.linspace(0, view.num_frames - 1, FRAMES).long()
        try:
            pictures, _ = draw_views(clips, index, view, VIEWS, source, frames=frames)
        except UserError as error:  # a picture must not end a run
            print(f"note: no views of {clips.names[index]} in TensorBoard: {error}")
            continue
        rows = [torch.cat(list(picture), dim=2) for picture in pictures]  # 3 x height x width
        log.image(f"views/{clips.names[index]}", torch.cat(rows, dim=1))
