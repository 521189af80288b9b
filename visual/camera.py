"""From space to a picture: where the viewer stands, and which square of space the picture shows.

The coordinates are a store's: metres, the origin in the middle of the first person's spine; in the
first frame z points up along the spine and x from the left shoulder to the right one, so that the
person looks along y. Someone who stoops or is turned away in the first frame therefore stands aslant
afterwards. The camera is held so that the legs are upright and the person is seen from before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from data_gen.normalise import rotation_between

AZIMUTH, ELEVATION = 30.0, 10.0  # degrees; straight from the front an arm held forward is a point
AZIMUTH_OF_TWO = 75.0  # people who face each other are seen from the side
CENTRE_JOINT, HIPS, ANKLES, SHOULDERS = 1, 0, (14, 18), (4, 8)
STRAIGHT = 0.9  # share of the greatest distance of hips and ankles at which a person stands


def seen_joints(clip: Tensor) -> Tensor:
    """Which joints of ``(T, V, 3, M)`` were seen: bool ``(T, V, M)``. Zero means not seen."""
    seen = (clip != 0).any(dim=2)
    seen[:, CENTRE_JOINT, 0] |= seen[:, :, 0].any(dim=1)  # zero because it is the origin
    return seen


def upright(clip: Tensor) -> Tensor:
    """The rotation (3, 3) of columns that makes the first person of ``(T, V, 3, M)`` stand along z
    with the shoulders, over all frames, along x.

    Up is from the ankles to the hips where the legs are straight. Frames in which that is far from
    z, as after a fall, do not count, unless it is so in all.
    """
    ankles, hips = clip[:, ANKLES, :, 0], clip[:, HIPS, :, 0]
    legs = hips - ankles.mean(dim=1)  # T x 3
    length = legs.norm(dim=1)
    standing = (length > STRAIGHT * length.max()) & (ankles != 0).any(dim=2).all(dim=1)
    legs = legs[standing] / length[standing, None]
    near = legs[:, 2] > 0.5
    up = turn_onto((legs[near] if near.any() else legs).sum(dim=0), (0, 0, 1))
    left, right = SHOULDERS
    shoulders = up @ (clip[:, right, :, 0] - clip[:, left, :, 0]).sum(dim=0)
    return turn_onto(shoulders * torch.tensor([1.0, 1.0, 0.0]), (1, 0, 0)) @ up


def turn_onto(source: Tensor, target: tuple[float, float, float]) -> Tensor:
    """The rotation (3, 3) that takes the direction of ``source`` (3,) to ``target``."""
    return torch.from_numpy(rotation_between(source.float().numpy(), target)).float()


def viewing_axes(azimuth: float = AZIMUTH, elevation: float = ELEVATION) -> Tensor:
    """Right, down and towards the viewer, as the rows of (3, 3).

    At azimuth 0 the viewer stands before the person, whose right hand is then on the left of the
    picture; a positive azimuth, in degrees, leads round to the person's right.
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    return torch.tensor([
        (-math.cos(a), math.sin(a), 0.0),
        (math.sin(a) * math.sin(e), math.cos(a) * math.sin(e), -math.cos(e)),
        (math.sin(a) * math.cos(e), math.cos(a) * math.cos(e), math.sin(e)),
    ])


@dataclass(frozen=True)
class Camera:
    """A parallel projection: lengths do not depend on the distance. The picture is a square."""

    axes: Tensor  # (3, 3), rows: right, down, towards the viewer
    left: float  # of the picture, in metres along the first axis
    top: float
    side: float

    def project(self, points: Tensor) -> Tensor:
        """``(..., 3)`` metres to metres to the right, down, and towards the viewer."""
        return points @ self.axes.T.to(points.dtype)

    def to_pixels(self, projected: Tensor, size: int) -> Tensor:
        """Projected points ``(..., 3)`` to pixels ``(..., 2)`` of a picture of ``size``."""
        corner = torch.tensor([self.left, self.top], dtype=projected.dtype)
        return (projected[..., :2] - corner) / self.side * size


def place_camera(clips: list[Tensor], margin: float = 0.08) -> Camera:
    """The camera that shows every seen joint of all ``clips`` (T, V, 3, M), the first upright."""
    first, seen = clips[0], seen_joints(clips[0])
    rotation = upright(first)
    azimuth = AZIMUTH
    if first.shape[3] > 1 and (both := seen[:, CENTRE_JOINT].all(dim=1)).any():
        apart = (first[both, CENTRE_JOINT, :, 1] - first[both, CENTRE_JOINT, :, 0]).mean(dim=0)
        x, y, _ = (rotation @ apart).tolist()
        azimuth = AZIMUTH_OF_TWO if abs(y) > abs(x) else AZIMUTH
    axes = viewing_axes(azimuth).to(first.dtype) @ rotation
    shown = [(clip.transpose(2, 3) @ axes.T)[seen_joints(clip)][:, :2] for clip in clips]
    points = torch.cat([*shown, torch.zeros(1, 2, dtype=first.dtype)])  # the origin, always
    low, high = points.amin(dim=0), points.amax(dim=0)
    side = (high - low).max().clamp(min=0.1).item() * (1 + 2 * margin)
    left, top = ((low + high) / 2 - side / 2).tolist()
    return Camera(axes, left, top, side)
