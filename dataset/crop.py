"""Which frames of a clip a view shows: temporal crops, and the resize to a fixed number of frames.

Crop and resize together need a few interpolated frames of a clip, so a batch is one weighted
gather from wherever the clips are stored (paper section 3.4, "temporal crop-resize").
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .clips import ClipSet

NUM_FRAMES = 64  # frames of a view (section 4.2)
CENTRE_RATIO = 0.95  # share of a clip that evaluation looks at


def draw_crop(
    num_frames: Tensor, generator: Generator, min_ratio: float, min_frames: int
) -> tuple[Tensor, Tensor]:
    """Temporal crops of clips of ``num_frames`` (N,): start and length, (N,) each.

    The length is ``min(max(floor(n u), min_frames), n)`` with u ~ U[min_ratio, 1], the start
    uniform over what fits.
    """
    u, v = torch.rand(2, len(num_frames), generator=generator, dtype=torch.float64)
    ratio = min_ratio + (1.0 - min_ratio) * u
    length = (num_frames * ratio).floor().long().clamp(min=min_frames)
    length = torch.minimum(length, num_frames)
    start = (v * (num_frames - length + 1)).floor().long()
    return start, length


def whole_clip(num_frames: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(num_frames), num_frames


def centre_crop(num_frames: Tensor) -> tuple[Tensor, Tensor]:
    """The evaluation crop: as many frames cut from both ends, 95% kept."""
    start = ((1.0 - CENTRE_RATIO) * num_frames.double() / 2.0).long()
    return start, num_frames - 2 * start


def resize_positions(length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where ``size`` frames lie in crops of ``length`` (N,), for linear interpolation.

    Half-pixel centres, as ``F.interpolate(align_corners=False)``. Returns the frame before and
    the frame after, (N, size) integers, and the weight of the latter, (N, size).
    """
    centres = torch.arange(size, dtype=torch.float64, device=length.device) + 0.5
    position = (centres * (length[:, None].double() / size) - 0.5).clamp(min=0.0)
    before = position.long()
    after = torch.minimum(before + 1, length[:, None] - 1)
    return before, after, (position - before).float()


def cut_and_resize(
    clips: ClipSet, index: Tensor, start: Tensor, length: Tensor, size: int = NUM_FRAMES
) -> Tensor:
    """Crops of the clips ``index`` (N,), resized to ``size`` frames: ``(N, size, V, 3, M)``."""
    device = clips.frames.device  # without waiting for what the device has still to do
    index, start, length = (x.to(device, non_blocking=True) for x in (index, start, length))
    before, after, weight = resize_positions(length, size)
    return clips.blend(index, start[:, None] + before, start[:, None] + after, weight)
