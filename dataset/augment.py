"""Spatial augmentation of a view: pose augmentation and joint jittering (paper section 3.4).

Both are linear maps of the coordinates, one draw per view, the same for all its frames and both
people. *Drawing* the parameters and *applying* them are separate; the second is pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from options.errors import UserError

from .crop import NUM_FRAMES

AUGMENTATIONS = ("crop", "pose", "jitter")


@dataclass(frozen=True)
class Augmentation:
    """What a pretraining view may undergo; the defaults are the released program's.

    ``kinds`` is any subset of ``AUGMENTATIONS``; none of them gives the whole clip, resized.
    """

    kinds: tuple[str, ...] = field(default=AUGMENTATIONS)
    min_crop_ratio: float = 0.1
    min_crop_frames: int = 64
    jitter_joints: int = 15
    jitter_zero_prob: float = 0.5
    num_frames: int = NUM_FRAMES

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(AUGMENTATIONS)
        if unknown:
            raise UserError(f"--augmentations {' '.join(sorted(unknown))}: choose from {AUGMENTATIONS}")
        if not 0 < self.min_crop_ratio <= 1:
            raise UserError(f"--min-crop-ratio {self.min_crop_ratio} must be above 0 and at most 1")
        if not 0 <= self.jitter_zero_prob <= 1:
            raise UserError(f"--jitter-zero-prob {self.jitter_zero_prob} must be from 0 to 1")
        if not 1 <= self.jitter_joints <= 25:
            raise UserError(f"--jitter-joints {self.jitter_joints} must be from 1 to 25")
        if self.min_crop_frames < 1:
            raise UserError(f"--min-crop-frames {self.min_crop_frames} must be at least 1")


@dataclass(frozen=True)
class JointMaps:
    """One linear map of the coordinates per clip, and the joints that undergo it."""

    matrix: Tensor  # (N, 3, 3): a coordinate vector x becomes matrix @ x
    joints: Tensor  # (N, V) bool


def draw_pose(count: int, generator: Generator) -> Tensor:
    """Pose augmentation (eq. 3): shears ``(N, 3, 3)``, one on the diagonal, else U[-1, 1]."""
    shear = torch.rand(count, 3, 3, generator=generator) * 2.0 - 1.0
    shear.diagonal(dim1=1, dim2=2).fill_(1.0)
    return shear


def draw_jitter(
    count: int, num_joints: int, jittered: int, zero_prob: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Joint jittering (eq. 4): matrices ``(N, 3, 3)`` and the joints they touch ``(N, V)``.

    The matrix is all zero with chance ``zero_prob``, else U[-1, 1]. A row vector is multiplied
    from the left, x M; the matrix returned is its transpose, for column vectors.
    """
    matrix = torch.rand(count, 3, 3, generator=generator) * 2.0 - 1.0
    is_zero = torch.rand(count, generator=generator) < zero_prob
    matrix = matrix.masked_fill(is_zero[:, None, None], 0.0)
    order = torch.rand(count, num_joints, generator=generator).argsort(dim=1)
    joints = torch.zeros(count, num_joints, dtype=torch.bool)
    joints.scatter_(1, order[:, :jittered], True)
    return matrix.transpose(1, 2), joints


def draw_spatial(
    count: int, num_joints: int, augmentation: Augmentation, generator: Generator
) -> JointMaps | None:
    """Pose or jitter, with equal chance where both are on; None where neither is.

    Both are always drawn, so that which of them a view undergoes leaves the other draws alone.
    """
    with_pose, with_jitter = ("pose" in augmentation.kinds), ("jitter" in augmentation.kinds)
    if not (with_pose or with_jitter):
        return None
    is_pose = torch.rand(count, generator=generator) < 0.5
    if with_pose != with_jitter:
        is_pose = torch.full((count,), with_pose)
    shear = draw_pose(count, generator)
    jitter, joints = draw_jitter(
        count, num_joints, augmentation.jitter_joints, augmentation.jitter_zero_prob, generator
    )
    return JointMaps(
        matrix=torch.where(is_pose[:, None, None], shear, jitter), joints=is_pose[:, None] | joints
    )


def map_joints(batch: Tensor, maps: JointMaps) -> Tensor:
    """Apply ``maps`` to a batch ``(N, T, V, 3, M)``: the same for all frames and both people.

    As a matrix on a frame's 150 numbers the maps are narrow bands: every number becomes a weighted
    sum of itself and the numbers one or two coordinates away in memory. Five products with a
    shifted copy take half the time of the small matrix products they stand for.
    """
    n, t, v, c, m = batch.shape
    matrix, joints = (x.to(batch.device, non_blocking=True) for x in (maps.matrix, maps.joints))
    own = torch.where(joints[:, :, None, None], matrix[:, None], torch.eye(c, device=batch.device))
    reach = (c - 1) * m
    padded = F.pad(batch.reshape(-1), (reach, reach))  # numbers outside are read, times zero
    mapped = batch.new_zeros(n, t, v * c * m)
    for shift in range(1 - c, c):
        band = own.diagonal(offset=shift, dim1=2, dim2=3)  # N x V x (c - |shift|)
        band = F.pad(band, (max(-shift, 0), max(shift, 0))).repeat_interleave(m, dim=2)
        start = reach + shift * m
        neighbour = padded[start : start + batch.numel()].view_as(mapped)
        mapped.addcmul_(neighbour, band.view(n, 1, -1))
    return mapped.view(n, t, v, c, m)
