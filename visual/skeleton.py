"""Render the skeletons of a clip: camera, limbs, one picture per frame.

Coordinates are those of a store: meters, with the origin at the center of the first person. In the first
frame z points up along the spine and x from the left to the right shoulder, so that the person faces
along y. A person who stoops or is turned away in that frame therefore appears tilted in the coordinates.
The camera compensates for it: the legs are upright and the person is seen from the front.

2D skeletons are shown as they are, with y downward as in images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from facts.skeletons import KINECT_V2, Pair, Skeleton
from utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

AZIMUTH, ELEVATION = 30.0, 10.0  # degrees; seen straight from the front, an arm held forward is a point
AZIMUTH_FACING = 75.0  # two people who face each other are seen from the side
STRAIGHT = 0.9  # legs are straight above this fraction of the largest distance of hips and ankles
OVERSAMPLING = 3  # pictures are rendered larger by this factor, then reduced to smooth the edges

Color = tuple[int, int, int]
PAPER, GHOST, MARK = (255, 255, 255), (208, 208, 208), (190, 0, 190)
# Left is blue and right is orange, a pair that color-blind people can tell apart.
TRUNK = "spine and head"
LIMB_COLORS: dict[str, Color] = {
    TRUNK: (70, 70, 70),
    "left arm": (0, 90, 181),
    "right arm": (220, 80, 0),
    "left leg": (70, 170, 230),
    "right leg": (240, 165, 0),
}


@dataclass(frozen=True)
class Limb:
    """A color and the bones that are painted in it, pairs of connected joints."""

    color: Color
    bones: tuple[Pair, ...]

    @property
    def joints(self) -> list[int]:
        """All joints of the limb, in ascending order."""
        return sorted({joint for bone in self.bones for joint in bone})


def limbs_of(skeleton: Skeleton) -> dict[str, Limb]:
    """Return the limbs of a skeleton that have bones, by name, in the order of ``LIMB_COLORS``.

    A bone belongs to an arm or leg if one end does and the other end does not belong to another limb.
    """
    sides = {"arm": zip(*skeleton.arms), "leg": zip(*skeleton.legs)}
    limb_of = {
        joint: f"{side} {part}"
        for part, joints in sides.items()
        for side, members in zip(("left", "right"), joints)
        for joint in members
    }
    bones: dict[str, list[Pair]] = {name: [] for name in LIMB_COLORS}
    for bone in skeleton.drawn_bones or skeleton.bones:
        names = {limb_of[joint] for joint in bone if joint in limb_of}
        bones[names.pop() if len(names) == 1 else TRUNK].append(bone)
    return {name: Limb(LIMB_COLORS[name], tuple(chosen)) for name, chosen in bones.items() if chosen}


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
    """Return the mean direction (3,) from the ankles to the hips of ``person`` (T, V, 3).

    Only frames in which the legs are straight count. Frames in which the direction is far from z, for
    example after a fall, do not count unless there are no others. The result is zero if there are no
    such frames, or if the skeleton has no legs.
    """
    if not skeleton.legs:
        return person.new_zeros(3)
    ankles = person[:, skeleton.legs[:3][-1]]  # hips, knees, ankles
    legs = person[:, skeleton.legs[0]].mean(dim=1) - ankles.mean(dim=1)
    length = legs.norm(dim=1)
    standing = (length > STRAIGHT * length.max()) & (ankles != 0).any(dim=2).all(dim=1)
    legs = legs[standing] / length[standing, None]
    near_z = legs[:, 2] > 0.5
    return (legs[near_z] if near_z.any() else legs).sum(dim=0)


def upright(clip: Tensor, skeleton: Skeleton = KINECT_V2) -> Tensor:
    """Return the rotation (3, 3) of column vectors that makes the first person stand along z and face y.

    ``clip`` is (T, V, 3, M). Up is ``mean_leg``. The shoulders, averaged over all frames, become parallel
    to x.
    """
    person = clip[..., 0].double()  # T x V x 3
    up = mean_leg(person, skeleton)
    x_axis, y_axis, z_axis = torch.eye(3, dtype=up.dtype)
    up = up / up.norm() if up.norm() > 1e-6 else z_axis
    left, right = skeleton.x_pair or (0, 0)
    for across in ((person[:, right] - person[:, left]).sum(dim=0), x_axis, y_axis):
        across = across - (across @ up) * up
        if across.norm() > 1e-6:
            break
    across = across / across.norm()
    return torch.stack([across, torch.linalg.cross(up, across), up])


def viewing_axes(azimuth: float = AZIMUTH, elevation: float = ELEVATION) -> Tensor:
    """Return the directions right, down and toward the viewer, the rows of a (3, 3) matrix.

    At azimuth 0 the viewer is in front of the person, whose right hand is then on the left of the
    picture. A positive azimuth, in degrees, moves the viewer to the person's right.
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    return torch.tensor(
        [
            (-math.cos(a), math.sin(a), 0.0),
            (math.sin(a) * math.sin(e), math.cos(a) * math.sin(e), -math.cos(e)),
            (math.sin(a) * math.cos(e), math.cos(a) * math.cos(e), math.sin(e)),
        ],
        dtype=torch.float64,
    )


@dataclass(frozen=True)
class Camera:
    """A parallel projection to a square picture: sizes do not depend on the distance."""

    axes: Tensor  # (3, 3) float64, rows: right, down, toward the viewer
    left: float  # edges of the picture in meters along the first two axes
    top: float
    side: float

    def project(self, points: Tensor) -> Tensor:
        """Return points (..., 3) in meters to the right, down and toward the viewer."""
        return points.double() @ self.axes.T

    def to_pixels(self, projected: Tensor, size: int) -> Tensor:
        """Return the pixels (..., 2) of projected points (..., 3) in a picture of ``size`` pixels."""
        corner = projected.new_tensor([self.left, self.top])
        return (projected[..., :2] - corner) / self.side * size


def camera_axes(clip: Tensor, skeleton: Skeleton) -> Tensor:
    """Return the axes of a camera, as ``viewing_axes``, that shows the first person of ``clip`` upright.

    ``clip`` is (T, V, 3, M). Two people who face each other are seen from the side.
    """
    if skeleton.dimensions == 2:
        return torch.tensor([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)], dtype=torch.float64)
    rotation, azimuth = upright(clip, skeleton), AZIMUTH
    if (
        clip.shape[3] > 1
        and (both := seen_joints(clip, skeleton)[:, skeleton.center].all(dim=2).all(dim=1)).any()
    ):
        centers = clip[both][:, skeleton.center].mean(dim=1)  # T' x 3 x M
        x, y, _ = (rotation @ (centers[..., 1] - centers[..., 0]).mean(dim=0)).tolist()
        azimuth = AZIMUTH_FACING if abs(y) > abs(x) else AZIMUTH
    return viewing_axes(azimuth) @ rotation


def place_camera(clips: list[Tensor], skeleton: Skeleton = KINECT_V2, margin: float = 0.08) -> Camera:
    """Return a camera that shows every seen joint of all clips (T, V, 3, M), the first clip upright.

    Raises ``UserError`` if a coordinate is non-finite.
    """
    if not all(clip.isfinite().all() for clip in clips):
        raise UserError("a clip with non-finite coordinates cannot be rendered; check its dataset")
    axes = camera_axes(clips[0].double(), skeleton)
    shown = [(clip.double().transpose(2, 3) @ axes.T)[seen_joints(clip, skeleton)][:, :2] for clip in clips]
    points = torch.cat([*shown, torch.zeros(1, 2, dtype=torch.float64)])  # always including the origin
    low, high = points.amin(dim=0), points.amax(dim=0)
    side = (high - low).max().clamp(min=0.1).item() * (1 + 2 * margin)
    left, top = ((low + high) / 2 - side / 2).tolist()
    return Camera(axes, left, top, side)


class Projection:
    """The people of a clip (T, V, 3, M) in the picture plane, as nested lists [frame][person][joint]."""

    def __init__(self, clip: Tensor, skeleton: Skeleton, camera: Camera, size: int) -> None:
        projected = camera.project(clip.permute(0, 3, 1, 2))  # T x M x V x 3
        self.size = size
        self.limbs = limbs_of(skeleton)
        self.pixels = camera.to_pixels(projected, size).tolist()
        self.depth = projected[..., 2].tolist()
        self.seen = seen_joints(clip, skeleton).transpose(1, 2).tolist()


def paint_disc(canvas: ImageDraw, center: list[float], radius: float, color: Color) -> None:
    """Paint a filled circle."""
    x, y = center
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def paint_people(
    canvas: ImageDraw, people: Projection, frame: int, width: int, color: Color | None = None
) -> None:
    """Paint the people of a frame, far limbs first; by default in the colors of the limbs."""
    limbs = []
    for person, depth in enumerate(people.depth[frame]):
        for limb in people.limbs.values():
            mean_depth = sum(depth[joint] for joint in limb.joints) / len(limb.joints)
            paint = color or (limb.color if person == 0 else lighter(limb.color))
            limbs.append((mean_depth, person, limb, paint))
    for _, person, limb, paint in sorted(limbs, key=lambda entry: entry[0]):
        pixels, seen = people.pixels[frame][person], people.seen[frame][person]
        for a, b in limb.bones:
            if seen[a] and seen[b]:
                canvas.line((*pixels[a], *pixels[b]), fill=paint, width=width)
        for joint in limb.joints:
            if seen[joint]:
                paint_disc(canvas, pixels[joint], width / 2, paint)


def paint_marks(
    canvas: ImageDraw, people: Projection, ghosts: Projection | None, frame: int, marked: list[int]
) -> None:
    """Paint a disc on each marked joint of a frame; on the ghost if the joint itself is not seen."""
    radius = people.size / 60
    for person, seen in enumerate(people.seen[frame]):
        for joint in marked:
            if seen[joint]:
                paint_disc(canvas, people.pixels[frame][person][joint], radius, MARK)
            elif ghosts is not None and ghosts.seen[frame][person][joint]:
                paint_disc(canvas, ghosts.pixels[frame][person][joint], radius, MARK)


def render_clip(
    clip: Tensor,
    size: int,
    camera: Camera | None = None,
    ghost: Tensor | None = None,
    marked: Tensor | None = None,
    skeleton: Skeleton = KINECT_V2,
) -> list[Image]:
    """Render every frame of a clip (T, V, 3, M) as a square picture of ``size`` pixels.

    Args:
        camera: default: one that shows the whole clip.
        ghost: another clip of the same shape, painted in gray behind.
        marked: bool (V,), the joints to mark. A joint that is zero in ``clip`` is marked on the ghost.
        skeleton: the joints V and their bones.

    Raises:
        UserError: a coordinate is non-finite.
    """
    from PIL import Image, ImageDraw

    camera = camera or place_camera([clip], skeleton)
    large = OVERSAMPLING * size
    people = Projection(clip, skeleton, camera, large)
    ghosts = None if ghost is None else Projection(ghost, skeleton, camera, large)
    joints = [] if marked is None else marked.nonzero()[:, 0].tolist()
    pictures = []
    for frame in range(len(clip)):
        picture = Image.new("RGB", (large, large), PAPER)
        canvas = ImageDraw.Draw(picture)
        if ghosts is not None:
            paint_people(canvas, ghosts, frame, max(large // 90, 1), GHOST)
        paint_people(canvas, people, frame, max(large // 50, 1))
        paint_marks(canvas, people, ghosts, frame, joints)
        pictures.append(picture.reduce(OVERSAMPLING))
    return pictures
