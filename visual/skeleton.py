"""Draws skeletons: where the limbs are, and the pictures of one clip. Needs torchvision to draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from options.errors import UserError

from .camera import Camera, place_camera, seen_joints

OVERSAMPLING = 2  # lines are drawn this much larger and averaged, for smooth edges
FRAMES_AT_ONCE = 32

Colour = tuple[int, int, int]
PAPER, GHOST, MARK = (255, 255, 255), (208, 208, 208), (190, 0, 190)


@dataclass(frozen=True)
class Limb:
    """A colour and chains of joints; neighbours in a chain are joined by a bone."""

    colour: Colour
    chains: tuple[tuple[int, ...], ...]

    @property
    def bones(self) -> list[tuple[int, int]]:
        return [bone for chain in self.chains for bone in zip(chain, chain[1:])]

    @property
    def joints(self) -> list[int]:
        return sorted({joint for chain in self.chains for joint in chain})


# Kinect v2's joints, counted from zero. As in a body, and unlike in the graph encoders, a finger
# tip hangs on the hand. The left is blue, the right orange, told apart by the colour-blind too.
LIMBS = {
    "spine and head": Limb((70, 70, 70), ((0, 1, 20, 2, 3),)),
    "left arm": Limb((0, 90, 181), ((20, 4, 5, 6, 7, 21), (7, 22))),
    "right arm": Limb((220, 80, 0), ((20, 8, 9, 10, 11, 23), (11, 24))),
    "left leg": Limb((70, 170, 230), ((0, 12, 13, 14, 15),)),
    "right leg": Limb((240, 165, 0), ((0, 16, 17, 18, 19),)),
}


def lighter(colour: Colour, share: float = 0.45) -> Colour:
    return tuple(round(c + (255 - c) * share) for c in colour)


# What a pixel shows is a row of this table: paper, ghost, mark, the limbs of the first person, and
# those of the second, who is lighter.
PALETTE = [PAPER, GHOST, MARK, *(limb.colour for limb in LIMBS.values()),
           *(lighter(limb.colour) for limb in LIMBS.values())]
PAPER_ROW, GHOST_ROW, MARK_ROW, FIRST_LIMB_ROW = range(4)


def silhouettes(
    pixels: Tensor, seen: Tensor, joints: list[int], bones: list[tuple[int, int]], size: int,
    width: int, radius: int,
) -> Tensor:
    """Where a picture shows these joints and bones: bool ``(T, size, size)``.

    ``pixels`` (T, V, 2) and ``seen`` (T, V) of one person. torchvision draws bones in white only,
    so they are drawn on black and coloured later; all frames in one call, one below the other.
    """
    from torchvision.utils import draw_keypoints

    top = size * torch.arange(len(pixels), dtype=pixels.dtype)[:, None]
    points = torch.stack([pixels[:, joints, 0], pixels[:, joints, 1] + top], dim=-1)
    place = {joint: i for i, joint in enumerate(joints)}
    black = torch.zeros(3, len(pixels) * size, size, dtype=torch.uint8)
    drawn = draw_keypoints(
        black, points, connectivity=[(place[a], place[b]) for a, b in bones], colors="white",
        radius=radius, width=width, visibility=seen[:, joints],
    )
    return drawn[0].view(-1, size, size) > 0


def add_people(rows: Tensor, clip: Tensor, seen: Tensor, camera: Camera, ghost: bool = False) -> None:
    """Draw, into palette rows (T, S, S), the people of ``clip`` (T, V, 3, M), far limbs first."""
    size = rows.shape[-1]
    width = max(round(size / (90 if ghost else 50)), 1)
    projected = camera.project(clip.permute(3, 0, 1, 2))  # M x T x V x 3
    pixels = camera.to_pixels(projected, size)
    shapes, depths, colours = [], [], []
    for person in range(clip.shape[3]):
        if not seen[:, :, person].any():
            continue
        for i, limb in enumerate(LIMBS.values()):
            shapes.append(silhouettes(pixels[person], seen[:, :, person], limb.joints, limb.bones,
                                      size, width, radius=width // 2))
            depths.append(projected[person, :, limb.joints, 2].mean(dim=1))
            colours.append(GHOST_ROW if ghost else FIRST_LIMB_ROW + min(person, 1) * len(LIMBS) + i)
    if not shapes:
        return
    for t, order in enumerate(torch.stack(depths).argsort(dim=0).T.tolist()):
        for limb in order:
            rows[t].masked_fill_(shapes[limb][t], colours[limb])


def add_marks(rows: Tensor, clip: Tensor, shown: Tensor, camera: Camera) -> None:
    """Draw, into palette rows, a disc at each joint of ``clip`` where ``shown`` (T, V, M) says so."""
    size = rows.shape[-1]
    pixels = camera.to_pixels(camera.project(clip.permute(3, 0, 1, 2)), size)
    for person in range(clip.shape[3]):
        shape = silhouettes(pixels[person], shown[:, :, person], list(range(clip.shape[1])), [],
                            size, width=1, radius=max(round(size / 60), 2))
        rows.masked_fill_(shape, MARK_ROW)


def draw_clip(
    clip: Tensor, size: int, camera: Camera | None = None, ghost: Tensor | None = None,
    marked: Tensor | None = None,
) -> Tensor:
    """Pictures of a clip ``(T, V, 3, M)``: uint8 ``(T, 3, size, size)``. Needs torchvision.

    Args:
        camera: by default one that shows all of the clip; nothing may lie outside its picture.
        ghost: another clip of the same shape, drawn in grey behind.
        marked: joints (V,) to mark; one that is at zero in ``clip`` is marked on the ghost.

    Raises:
        UserError: a coordinate is not a finite number.
    """
    if not clip.isfinite().all():
        raise UserError("a clip with coordinates that are not finite cannot be drawn; look at its store")
    camera = camera or place_camera([clip])
    palette = torch.tensor(PALETTE, dtype=torch.float32)
    pictures = []
    for first in range(0, len(clip), FRAMES_AT_ONCE):
        part = clip[first : first + FRAMES_AT_ONCE]
        seen = seen_joints(part)
        rows = torch.full((len(part), *[OVERSAMPLING * size] * 2), PAPER_ROW, dtype=torch.uint8)
        if ghost is not None:
            behind = ghost[first : first + FRAMES_AT_ONCE]
            ghost_seen = seen_joints(behind)
            add_people(rows, behind, ghost_seen, camera, ghost=True)
        add_people(rows, part, seen, camera)
        if marked is not None:
            if ghost is not None:
                add_marks(rows, behind, ghost_seen & ~seen & marked[:, None], camera)
            add_marks(rows, part, seen & marked[:, None], camera)
        coloured = palette[rows.int()].permute(0, 3, 1, 2)  # T x 3 x S x S
        pictures.append(F.avg_pool2d(coloured, OVERSAMPLING).round().to(torch.uint8))
    return torch.cat(pictures)
