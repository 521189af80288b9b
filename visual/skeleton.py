"""How skeletons are seen: camera, limbs and colors.

Coordinates are those of a store: meters, z up along the spine and y to the front in the first frame. A person
who stoops or is turned away there is tilted in the others, for which the camera compensates. 2D skeletons are
shown as they are, with y downward as in images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from facts.skeletons import KINECT_V2, Pair, Skeleton, group_of
from utils.errors import UserError

AZIMUTH, ELEVATION = 30.0, 10.0  # degrees; seen straight from the front, an arm held forward is a point
AZIMUTH_FACING = 75.0  # two people who face each other are seen from the side
STRAIGHT = 0.9  # legs are straight above this fraction of the largest distance of hips and ankles
MIN_WIDTH = 0.3  # of the frames of a film strip, relative to their height

Color = tuple[int, int, int]
INK = (30, 30, 30)
GHOST, MARK = (208, 208, 208), (190, 0, 190)
# Left is blue and right is orange, a pair that color-blind people can tell apart.
TRUNK = "spine and head"
LIMB_COLORS: dict[str, Color] = {
    TRUNK: (70, 70, 70),
    "left arm": (0, 90, 181),
    "right arm": (220, 80, 0),
    "left leg": (70, 170, 230),
    "right leg": (240, 165, 0),
}


def limbs_of(skeleton: Skeleton) -> dict[str, list[Pair]]:
    """Return the bones of each limb of a skeleton that has any, in the order of ``LIMB_COLORS``.

    A bone belongs to an arm or leg if one end does and the other end does not belong to another limb.
    """
    limb_of = {
        joint: f"{side} {part}"
        for part, pairs in (("arm", skeleton.arms), ("leg", skeleton.legs))
        for pair in pairs
        for side, joint in zip(("left", "right"), pair)
    }
    limbs: dict[str, list[Pair]] = {name: [] for name in LIMB_COLORS}
    for bone in skeleton.drawn_bones or skeleton.bones:
        names = {limb_of[joint] for joint in bone if joint in limb_of}
        limbs[names.pop() if len(names) == 1 else TRUNK].append(bone)
    return {name: bones for name, bones in limbs.items() if bones}


def lighter(color: Color, share: float = 0.45) -> Color:
    """Blend ``color`` with white; the second person of a clip has the lighter limbs."""
    red, green, blue = (round(c + (255 - c) * share) for c in color)
    return red, green, blue


def seen_joints(clip: Tensor, skeleton: Skeleton = KINECT_V2) -> Tensor:
    """Return which joints of ``clip`` (T, V, 3, M) were seen, bool (T, V, M); unseen joints are zero."""
    seen = (clip != 0).any(dim=2)
    if len(skeleton.center) == 1:  # zero because it is the origin
        seen[:, skeleton.center, 0] |= seen[:, :, 0].any(dim=1, keepdim=True)
    return seen


def mean_leg(person: Tensor, skeleton: Skeleton) -> Tensor:
    """Return the mean direction (3,) of the straight legs of ``person`` (T, V, 3), up; zero if unknown."""
    if not skeleton.legs:
        return person.new_zeros(3)
    ankles = person[:, skeleton.legs[:3][-1]]  # hips, knees, ankles
    legs = person[:, skeleton.legs[0]].mean(dim=1) - ankles.mean(dim=1)
    length = legs.norm(dim=1)
    standing = (length > STRAIGHT * length.max()) & (ankles != 0).any(dim=2).all(dim=1)
    legs = legs[standing] / length[standing, None]
    near_z = legs[:, 2] > 0.5  # unlike after a fall; others count only if there are none
    return (legs[near_z] if near_z.any() else legs).sum(dim=0)


def upright(clip: Tensor, skeleton: Skeleton = KINECT_V2) -> Tensor:
    """Return the rotation (3, 3) of column vectors after which the first person stands along z and faces y.

    ``clip`` is (T, V, 3, M). Up is ``mean_leg``; the mean direction of the shoulders becomes parallel to x.
    """
    person = clip[..., 0].double()  # T x V x 3
    up = mean_leg(person, skeleton)
    x_axis, y_axis, z_axis = torch.eye(3, dtype=up.dtype)
    up = up / up.norm() if up.norm() > 1e-6 else z_axis
    left, right = (person[:, group_of(end)].mean(dim=1) for end in skeleton.x_pair or (0, 0))
    for across in ((right - left).sum(dim=0), x_axis, y_axis):
        across = across - (across @ up) * up
        if across.norm() > 1e-6:
            break
    across = across / across.norm()
    return torch.stack([across, torch.linalg.cross(up, across), up])


def viewing_axes(azimuth: float = AZIMUTH, elevation: float = ELEVATION) -> Tensor:
    """Return the directions right, down and toward the viewer, the rows of a (3, 3) matrix.

    At azimuth 0 the person is seen from the front, at a positive one, in degrees, from the person's right.
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    right = (-math.cos(a), math.sin(a), 0.0)
    down = (math.sin(a) * math.sin(e), math.cos(a) * math.sin(e), -math.cos(e))
    near = (math.sin(a) * math.cos(e), math.cos(a) * math.cos(e), math.sin(e))
    return torch.tensor([right, down, near], dtype=torch.float64)


def camera_axes(clip: Tensor, skeleton: Skeleton) -> Tensor:
    """Return axes, as ``viewing_axes``, that show the first person of ``clip`` (T, V, 3, M) upright."""
    if skeleton.dimensions == 2:
        return torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    rotation, azimuth = upright(clip, skeleton), AZIMUTH
    both = seen_joints(clip, skeleton)[:, skeleton.center].all(dim=2).all(dim=1)
    if clip.shape[3] > 1 and both.any():
        centers = clip[both][:, skeleton.center].mean(dim=1)  # T' x 3 x M
        x, y, _ = (rotation @ (centers[..., 1] - centers[..., 0]).mean(dim=0)).tolist()
        azimuth = AZIMUTH_FACING if abs(y) > abs(x) else AZIMUTH
    return viewing_axes(azimuth) @ rotation


@dataclass(frozen=True)
class Camera:
    """A parallel projection to a square picture: sizes do not depend on the distance."""

    axes: Tensor  # (3, 3) float64, rows: right, down, toward the viewer
    left: float  # edges of the picture in meters along the first two axes
    top: float
    side: float
    width: float  # of the middle part of the picture, the rest of which is blank

    def project(self, points: Tensor) -> Tensor:
        """Return points (..., 3) in meters to the right, down and toward the viewer."""
        return points.double() @ self.axes.T


def place_camera(clips: Sequence[Tensor], skeleton: Skeleton = KINECT_V2, margin: float = 0.08) -> Camera:
    """Return a camera that shows all clips (T, V, 3, M), the first upright; ``UserError`` if not finite."""
    if not all(clip.isfinite().all() for clip in clips):
        raise UserError("a clip with non-finite coordinates cannot be rendered; check its dataset")
    axes = camera_axes(clips[0].double(), skeleton)
    shown = [(clip.double().transpose(2, 3) @ axes.T)[seen_joints(clip, skeleton)][:, :2] for clip in clips]
    points = torch.cat([*shown, torch.zeros(1, 2, dtype=torch.float64)])  # always including the origin
    low, high = points.amin(dim=0), points.amax(dim=0)
    width, height = ((high - low).clamp(min=0.1) * (1 + 2 * margin)).tolist()
    side = max(width, height)
    left, top = ((low + high) / 2 - side / 2).tolist()
    return Camera(axes, left, top, side, max(width, MIN_WIDTH * side))
