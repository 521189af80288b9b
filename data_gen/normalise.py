"""From the bodies of a clip to the two people the models see: pure functions on arrays.

This is the released preparation, whose details the golden data pin: which two bodies, how frames
without a body are filled, and where the coordinate axes lie. Shapes are (people, frames, 25, 3).
"""

from __future__ import annotations

import math

import numpy as np

from data_gen.errors import BadFile
from options.datasets import NUM_PEOPLE

CENTRE_JOINT = 1  # middle of the spine
Z_AXIS_JOINTS = (0, 1)  # z points from the base of the spine to its middle
X_AXIS_JOINTS = (4, 8)  # x points from the left shoulder to the right one


def clip_frames(bodies: np.ndarray) -> np.ndarray:
    """``normalise_clip`` in the order of axes of a store: float32 (frames, 25, 3, 2)."""
    return np.ascontiguousarray(normalise_clip(bodies).transpose(1, 2, 3, 0))


def normalise_clip(bodies: np.ndarray) -> np.ndarray:
    """Choose two people, fill their missing frames, centre and turn the clip.

    bodies: float64 (bodies, frames, 25, 3), zero where a body or a joint is not seen.
    Returns float32 (2, frames, 25, 3). Raises BadFile where no body is seen in any frame.
    """
    if not bodies.any():
        raise BadFile("no body in any frame")
    with np.errstate(over="ignore", invalid="ignore"):  # reported below
        people = choose_people(bodies).astype(np.float32)
        for person in people:
            fill_missing_frames(person)
        centre(people)
        people = turn(people)
    if not np.isfinite(people).all():
        raise BadFile("the coordinates are so large that normalising them overflows")
    return people


def choose_people(bodies: np.ndarray) -> np.ndarray:
    """The two bodies that move most, the livelier first: (2, frames, 25, 3).

    The measure is the standard deviation of each coordinate over all joints of the frames in which
    the body is seen, summed over the coordinates. Of equals, the later in the file comes first.
    A missing second person is zero.
    """
    people = np.zeros((NUM_PEOPLE, *bodies.shape[1:]), dtype=bodies.dtype)
    if len(bodies) == 1:
        people[:1] = bodies
    elif len(bodies) > 1:
        spread = np.array([_spread(body) for body in bodies])
        people[:] = bodies[np.argsort(spread, kind="stable")[::-1][:NUM_PEOPLE]]
    return people


def fill_missing_frames(person: np.ndarray) -> None:
    """Fill, in place, the frames (frames, 25, 3) behind a person's last one by repeating all
    before from the start.

    A person who is not there from the first frame on is moved to the start first, and the gaps
    between are closed; without that, gaps in the middle stay zero. The released program does so.
    """
    seen = person.any(axis=(1, 2))
    if seen.all() or not seen.any():
        return
    if not seen[0]:
        length = int(seen.sum())
        person[:length] = person[seen]
    else:
        length = int(np.flatnonzero(seen)[-1]) + 1
    person[length:] = person[np.arange(len(person) - length) % length]


def centre(people: np.ndarray) -> None:
    """Put the origin, in place and in every frame, at the spine of the first person.

    Joints at exactly zero were not seen and stay there. In a frame without the first person the
    second is not moved.
    """
    x, y, z = np.moveaxis(people != 0, -1, 0)
    seen = (x | y | z)[..., None]  # faster than any() over so short an axis
    people -= people[:1, :, CENTRE_JOINT:CENTRE_JOINT + 1].copy() * seen


def turn(people: np.ndarray) -> np.ndarray:
    """Rotate the whole clip so that the first person of its first frame stands along z, then so
    that this person's shoulders lie along x. Returns float32."""
    for (start, end), axis in ((Z_AXIS_JOINTS, (0, 0, 1)), (X_AXIS_JOINTS, (1, 0, 0))):
        first = people[0, 0]
        # rounded to float32 after each of the two, as the released program stores it
        people = rotate(people, rotation_between(first[end] - first[start], axis))
    return people


def rotate(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Apply a (3, 3) rotation to float32 points (..., 3), computing in float64."""
    x, y, z = np.moveaxis(points.astype(np.float64), -1, 0)
    rotated = np.empty_like(points)
    for i, row in enumerate(rotation):
        rotated[..., i] = row[0] * x + row[1] * y + row[2] * z
    return rotated


def rotation_between(source: np.ndarray, target: tuple[float, float, float]) -> np.ndarray:
    """The (3, 3) rotation that takes the direction of float32 ``source`` to ``target`` the short
    way.

    The identity where the two are parallel, opposite, or ``source`` is zero: then there is no one
    axis to turn around. The cosine is taken of the float32 direction, because its rounding is in
    the published numbers: it moves small angles by up to 1e-4.
    """
    (a, b, c), (d, e, f) = source.tolist(), target
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d  # the axis: source x target
    if abs(x) + abs(y) + abs(z) < 1e-6:
        return np.eye(3)
    direction = source / np.linalg.norm(source)
    angle = math.acos(min(max(float(direction @ np.array(target, np.float64)), -1), 1))
    length = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * skew + (1 - math.cos(angle)) * skew @ skew


def _spread(body: np.ndarray) -> float:
    """Standard deviation over joints and frames, summed over x, y, z, of the frames (n, 25, 3) in
    which the body is seen."""
    seen = body[body.any(axis=(1, 2))]
    return sum(float(seen[:, :, c].std()) for c in range(seen.shape[-1])) if len(seen) else 0.0
