"""Temporal crops and spatial augmentations of a view (paper section 3.4).

An augmentation is a small object: ``sample`` returns random parameters for a batch, ``apply``
is pure and runs on the device of the clips. Parameters are sampled once per view and are the same for
all its frames and both people. To add a spatial augmentation, write one class and append it to
``SPATIAL``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from utils.errors import UserError

CENTER_RATIO = 0.95  # fraction of a clip that the evaluation crop keeps


@dataclass(frozen=True)
class CropParameters:
    """Temporal crops: first frame and length in frames, ``(N,)`` integers each."""

    start: Tensor
    length: Tensor


@dataclass(frozen=True)
class RandomCrop:
    """Temporal crop of random length and position.

    The length of a clip of n frames is ``min(max(floor(n u), min_frames), n)`` with
    ``u ~ U[min_ratio, 1]``; the start is uniform over the valid positions.
    """

    min_ratio: float = 0.1
    min_frames: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.min_ratio <= 1:
            raise UserError(f"--min-crop-ratio {self.min_ratio} must be above 0 and at most 1")
        if self.min_frames < 1:
            raise UserError(f"--min-crop-frames {self.min_frames} must be at least 1")

    def sample(self, num_frames: Tensor, generator: Generator | None) -> CropParameters:
        """Sample crops of clips of ``num_frames`` (N,)."""
        u, v = torch.rand(2, len(num_frames), generator=generator, dtype=torch.float64)
        ratio = self.min_ratio + (1.0 - self.min_ratio) * u
        length = (num_frames * ratio).floor().long().clamp(min=self.min_frames)
        length = torch.minimum(length, num_frames)
        start = (v * (num_frames - length + 1)).floor().long()
        return CropParameters(start, length)


@dataclass(frozen=True)
class WholeClip:
    """No crop; nothing is random."""

    def sample(self, num_frames: Tensor, generator: Generator | None = None) -> CropParameters:
        """Return all frames of clips of ``num_frames`` (N,)."""
        return CropParameters(torch.zeros_like(num_frames), num_frames)


@dataclass(frozen=True)
class CenterCrop:
    """The evaluation crop: the same number of frames is cut from both ends; nothing is random."""

    ratio: float = CENTER_RATIO

    def sample(self, num_frames: Tensor, generator: Generator | None = None) -> CropParameters:
        """Return center crops of clips of ``num_frames`` (N,)."""
        start = ((1.0 - self.ratio) * num_frames.double() / 2.0).long()
        return CropParameters(start, num_frames - 2 * start)


class Crop(Protocol):
    """A temporal crop."""

    def sample(self, num_frames: Tensor, generator: Generator | None) -> CropParameters:
        """Sample crops of clips of ``num_frames`` (N,)."""


@dataclass(frozen=True)
class JointMaps:
    """Linear maps of the joint coordinates: ``matrix @ x`` for the selected joints of each clip."""

    matrix: Tensor  # N x 3 x 3
    joints: Tensor  # N x V, bool

    def __getitem__(self, rows: slice | Tensor) -> JointMaps:
        return JointMaps(self.matrix[rows], self.joints[rows])

    def where(self, mask: Tensor, other: JointMaps) -> JointMaps:
        """Return these maps for the clips in ``mask`` (N,), and those of ``other`` for the rest."""
        return JointMaps(
            torch.where(mask[:, None, None], self.matrix, other.matrix),
            torch.where(mask[:, None], self.joints, other.joints),
        )


class SpatialAugmentation(Protocol):
    """A linear map of the joint coordinates, sampled per view."""

    name: ClassVar[str]

    def sample(self, count: int, num_joints: int, generator: Generator | None) -> JointMaps:
        """Sample the parameters of ``count`` clips."""

    def describe(self, maps: JointMaps, clip: int) -> str:
        """Describe the augmentation of one clip of the batch for a caption."""


@dataclass(frozen=True)
class PoseAugmentation:
    """Shear of all joints (eq. 3): ones on the diagonal of the matrix, U[-1, 1] elsewhere."""

    name: ClassVar[str] = "pose"

    def sample(self, count: int, num_joints: int, generator: Generator | None) -> JointMaps:
        """Sample the parameters of ``count`` clips."""
        shear = torch.rand(count, 3, 3, generator=generator) * 2.0 - 1.0
        shear.diagonal(dim1=1, dim2=2).fill_(1.0)
        return JointMaps(shear, torch.ones(count, num_joints, dtype=torch.bool))

    def describe(self, maps: JointMaps, clip: int) -> str:
        """Describe the augmentation of one clip of the batch for a caption."""
        return "pose: sheared"


@dataclass(frozen=True)
class JointJitter:
    """Random linear map of a random subset of the joints (eq. 4), or their coordinates set to zero.

    The matrix is zero with probability ``zero_prob``, else its entries are U[-1, 1]. The official
    code multiplies row vectors, ``x M``; the sampled matrix is the transpose, for column vectors.
    """

    name: ClassVar[str] = "jitter"
    num_jittered: int = 15
    zero_prob: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.zero_prob <= 1:
            raise UserError(f"--jitter-zero-prob {self.zero_prob} must be between 0 and 1")
        if self.num_jittered < 1:
            raise UserError(f"--jitter-joints {self.num_jittered} must be at least 1")

    def sample(self, count: int, num_joints: int, generator: Generator | None) -> JointMaps:
        """Sample the parameters of ``count`` clips."""
        matrix = torch.rand(count, 3, 3, generator=generator) * 2.0 - 1.0
        is_zero = torch.rand(count, generator=generator) < self.zero_prob
        matrix = matrix.masked_fill(is_zero[:, None, None], 0.0)
        order = torch.rand(count, num_joints, generator=generator).argsort(dim=1)
        joints = torch.zeros(count, num_joints, dtype=torch.bool)
        joints.scatter_(1, order[:, : self.num_jittered], True)
        return JointMaps(matrix.transpose(1, 2), joints)

    def describe(self, maps: JointMaps, clip: int) -> str:
        """Describe the augmentation of one clip of the batch for a caption."""
        joints = int(maps.joints[clip].sum())
        return f"jitter: {joints} joints " + ("moved" if maps.matrix[clip].any() else "set to zero")


# Append new classes, so that a seed keeps giving the same views: this is the order of sampling.
SPATIAL: dict[str, type] = {kind.name: kind for kind in (PoseAugmentation, JointJitter)}
CROP = "crop"
PAPER_SPATIAL = (PoseAugmentation.name, JointJitter.name)


def augmentation_names() -> tuple[str, ...]:
    """Return the values of ``--augmentations``."""
    return (CROP, *SPATIAL)


@dataclass(frozen=True)
class SpatialParameters:
    """What ``OneOf`` sampled: which augmentation each clip undergoes, and the resulting maps."""

    choice: Tensor  # N, index into the enabled augmentations
    maps: JointMaps

    def __getitem__(self, rows: slice | Tensor) -> SpatialParameters:
        return SpatialParameters(self.choice[rows], self.maps[rows])


@dataclass(frozen=True)
class OneOf:
    """One of the enabled augmentations per view, with equal probability.

    Pose and jitter are always sampled, so enabling one does not change the random numbers of the
    other. Augmentations after them are sampled only if they are enabled, so registering another one
    does not change the views of a run without it.
    """

    enabled: tuple[SpatialAugmentation, ...]

    def sample(self, count: int, num_joints: int, generator: Generator | None) -> SpatialParameters:
        """Sample the parameters of ``count`` clips."""
        choice = (torch.rand(count, generator=generator) * len(self.enabled)).long()
        by_name = {augmentation.name: augmentation for augmentation in self.enabled}
        sampled = {
            name: by_name.get(name, kind()).sample(count, num_joints, generator)
            for name, kind in SPATIAL.items()
            if name in by_name or name in PAPER_SPATIAL
        }
        maps = sampled[self.enabled[0].name]
        for index, augmentation in enumerate(self.enabled[1:], start=1):
            maps = sampled[augmentation.name].where(choice == index, maps)
        return SpatialParameters(choice, maps)

    def apply(self, batch: Tensor, parameters: SpatialParameters) -> Tensor:
        """Return the augmented batch ``(N, T, V, 3, M)``."""
        return map_joints(batch, parameters.maps)

    def changed_joints(self, parameters: SpatialParameters, clip: int) -> Tensor:
        """Return the joints of one clip of the batch that the augmentation changed, ``(V,)`` booleans."""
        return parameters.maps.joints[clip]

    def describe(self, parameters: SpatialParameters, clip: int) -> str:
        """Describe the augmentation of one clip of the batch for a caption."""
        return self.enabled[int(parameters.choice[clip])].describe(parameters.maps, clip)


def map_joints(batch: Tensor, maps: JointMaps) -> Tensor:
    """Apply ``maps`` to a batch ``(N, T, V, 3, M)``: the same for all frames and both people.

    Acting on a frame's flattened coordinates, the maps are banded: every number becomes a weighted
    sum of numbers at most two coordinates away. Five products with a shifted copy take half the time
    of the batched 3 x 3 matrix products.
    """
    n, t, v, c, m = batch.shape
    matrix, joints = (x.to(batch.device, non_blocking=True) for x in (maps.matrix, maps.joints))
    own = torch.where(joints[:, :, None, None], matrix[:, None], torch.eye(c, device=batch.device))
    reach = (c - 1) * m
    padded = F.pad(batch.reshape(-1), (reach, reach))  # values read from the padding have weight zero
    mapped = batch.new_zeros(n, t, v * c * m)
    for shift in range(1 - c, c):
        band = own.diagonal(offset=shift, dim1=2, dim2=3)  # N x V x (c - |shift|)
        band = F.pad(band, (max(-shift, 0), max(shift, 0))).repeat_interleave(m, dim=2)
        start = reach + shift * m
        neighbor = padded[start : start + batch.numel()].view_as(mapped)
        mapped.addcmul_(neighbor, band.view(n, 1, -1))
    return mapped.view(n, t, v, c, m)
