"""Normalize a clip: select two people, fill missing frames, center and rotate. Pure functions on arrays.

The golden data pin the details of the official code: which two bodies are selected, how frames without a body
are filled, and the directions of the coordinate axes. Shapes are (people, frames, 25 joints, 3 coordinates)
unless stated otherwise.
"""

from __future__ import annotations

import math

import numpy as np

from data_gen.sources import BadFile
from options.datasets import NUM_PEOPLE

CENTER_JOINT = 1  # middle of the spine
Z_AXIS_JOINTS = (0, 1)  # z points from the base of the spine to its middle
X_AXIS_JOINTS = (4, 8)  # x points from the left shoulder to the right shoulder


def normalize_clip(bodies: np.ndarray) -> np.ndarray:
    """Select, fill, center and rotate the two people of a clip.

    Args:
        bodies: float64 (bodies, frames, 25, 3); zero for bodies and joints that are not tracked.

    Returns:
        float32 (frames, 25, 3, 2 people), the order of axes of a store.

    Raises:
        BadFile: no frame has a body, or the coordinates overflow.
    """
    if not bodies.any():
        raise BadFile("no body in any frame")
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        people = select_people(bodies).astype(np.float32)
        for person in people:
            fill_missing_frames(person)
        center(people)
        people = align_axes(people)
    if not np.isfinite(people).all():
        raise BadFile("the coordinates are so large that normalization overflows")
    return np.ascontiguousarray(people.transpose(1, 2, 3, 0))


def select_people(bodies: np.ndarray) -> np.ndarray:
    """Return the two bodies that move most, in order of decreasing motion; a missing second person is zero.

    Ties: the later body comes first.
    """
    people = np.zeros((NUM_PEOPLE, *bodies.shape[1:]), dtype=bodies.dtype)
    if len(bodies) == 1:
        people[:1] = bodies
    elif len(bodies) > 1:
        motion = np.array([_motion(body) for body in bodies])
        people[:] = bodies[np.argsort(motion, kind="stable")[::-1][:NUM_PEOPLE]]
    return people


def _motion(body: np.ndarray) -> float:
    """Return the standard deviation over joints and tracked frames, summed over x, y and z."""
    tracked = body[body.any(axis=(1, 2))]
    return sum(float(tracked[:, :, c].std()) for c in range(tracked.shape[-1])) if len(tracked) else 0.0


def fill_missing_frames(person: np.ndarray) -> None:
    """Fill, in place, the frames (frames, 25, 3) after a person's last one by repeating the earlier frames.

    As in the official code, gaps before the last frame are closed only for a person who is missing in the
    first frame: all tracked frames then move to the start. Otherwise these gaps stay zero.
    """
    tracked = person.any(axis=(1, 2))
    if tracked.all() or not tracked.any():
        return
    if not tracked[0]:
        length = int(tracked.sum())
        person[:length] = person[tracked]
    else:
        length = int(np.flatnonzero(tracked)[-1]) + 1
    person[length:] = person[np.arange(len(person) - length) % length]


def center(people: np.ndarray) -> None:
    """Move the origin of every frame, in place, to the spine of the first person.

    Joints at exactly zero are not tracked and stay zero. In a frame without the first person the second
    person is not moved.
    """
    x, y, z = np.moveaxis(people != 0, -1, 0)
    tracked = (x | y | z)[..., None]  # faster than any() over such a short axis
    people -= people[:1, :, CENTER_JOINT : CENTER_JOINT + 1].copy() * tracked


def align_axes(people: np.ndarray) -> np.ndarray:
    """Rotate the whole clip by the pose of the first person in the first frame; returns float32.

    The first rotation makes this person's spine parallel to z, the second the shoulders parallel to x.
    """
    for (start, end), axis in ((Z_AXIS_JOINTS, (0, 0, 1)), (X_AXIS_JOINTS, (1, 0, 0))):
        pose = people[0, 0]
        # rounded to float32 after each rotation, as in the official code
        people = rotate(people, rotation_between(pose[end] - pose[start], axis))
    return people


def rotate(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Apply a (3, 3) rotation to float32 points (..., 3), computed in float64."""
    x, y, z = np.moveaxis(points.astype(np.float64), -1, 0)
    rotated = np.empty_like(points)
    for i, row in enumerate(rotation):
        rotated[..., i] = row[0] * x + row[1] * y + row[2] * z
    return rotated


def rotation_between(source: np.ndarray, target: tuple[float, float, float]) -> np.ndarray:
    """Return the (3, 3) rotation by the smallest angle from ``source`` (float32) to ``target``.

    It is the identity if the two are parallel or opposite, or if ``source`` is zero, because the rotation
    axis is not unique then. The cosine is computed from the float32 direction, because the official code does
    so: it changes small angles by up to 1e-4.
    """
    (a, b, c), (d, e, f) = source.tolist(), target
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d  # the rotation axis: source x target
    if abs(x) + abs(y) + abs(z) < 1e-6:
        return np.eye(3)
    direction = source / np.linalg.norm(source)
    angle = math.acos(min(max(float(direction @ np.array(target, np.float64)), -1), 1))
    length = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * skew + (1 - math.cos(angle)) * skew @ skew
