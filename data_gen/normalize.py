"""Normalize a clip: select two people, fill missing frames, center and rotate. Pure functions on arrays.

The golden tests pin the details of the official code, which does not support 2D skeletons. Shapes are
(people, frames, V joints, C coordinates) unless stated otherwise.
"""

from __future__ import annotations

import math

import numpy as np

from data_gen.sources import BadFile
from facts.datasets import NUM_COORDINATES, NUM_PEOPLE
from facts.skeletons import KINECT_V2, Skeleton, group_of

MAX_GAP = 10  # frames in which a person is missing that are interpolated: a third of a second


def normalize_clip(bodies: np.ndarray, skeleton: Skeleton = KINECT_V2) -> np.ndarray:
    """Select, fill, center and rotate or scale the two people of a clip.

    ``bodies`` are float64 (bodies, frames, V, C), zero for what is not tracked; C is ``skeleton.dimensions``.
    Returns float32 (frames, V, 3, 2 people) as in a store; the third coordinate of a 2D skeleton is zero.
    Raises ``BadFile`` if no frame has a body, or the torso of a 2D skeleton, or the coordinates overflow.
    """
    if not bodies.any():
        raise BadFile("no body in any frame")
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        people = select_people(bodies).astype(np.float32)
        for person in people:
            fill_missing_frames(person)
        if skeleton.dimensions == 2:
            people = scale_by_torso(people, skeleton)
        else:
            tracked = tracked_joints(people[0])  # centering moves joints to the origin
            center(people, tracked, skeleton)
            people = align_axes(people, tracked, skeleton)
    return stored_frames(people)


def stored_frames(people: np.ndarray) -> np.ndarray:
    """Convert at most two people to float32 and to the order of axes of a store, zero for what is missing."""
    frames = np.zeros((*people.shape[1:3], NUM_COORDINATES, NUM_PEOPLE), dtype=np.float32)
    with np.errstate(over="ignore"):
        frames[:, :, : people.shape[-1], : len(people)] = people.transpose(1, 2, 3, 0)
    if not np.isfinite(frames).all():
        raise BadFile("the coordinates are too large")
    return frames


def select_people(bodies: np.ndarray) -> np.ndarray:
    """Return the two bodies that move most, in order of decreasing motion; a missing second person is zero.

    The motion is the standard deviation over joints and tracked frames, summed over x, y and z. Ties: the
    later body comes first.
    """
    motion = np.zeros(len(bodies))
    for number, body in enumerate(bodies if len(bodies) > 1 else ()):
        tracked = body[body.any(axis=(1, 2))]
        motion[number] = sum(float(values.std()) for values in np.moveaxis(tracked, -1, 0) if values.size)
    people = np.zeros((NUM_PEOPLE, *bodies.shape[1:]), dtype=bodies.dtype)
    people[: len(bodies)] = bodies[np.argsort(motion, kind="stable")[::-1][:NUM_PEOPLE]]
    return people


def fill_missing_frames(person: np.ndarray) -> None:
    """Fill, in place, the frames (frames, V, C) after a person's last one by repeating the earlier frames.

    As in the official code, the tracked frames of a person who is missing in the first frame move to the
    start. Gaps before the last frame of others stay zero.
    """
    tracked = person.any(axis=(1, 2))
    if not tracked.any():
        return
    length = int(np.flatnonzero(tracked)[-1]) + 1
    if not tracked[0]:
        length = int(tracked.sum())
        person[:length] = person[tracked]
    person[length:] = person[np.arange(len(person) - length) % length]


def interpolate_gaps(body: np.ndarray) -> int:
    """Fill short gaps between the tracked frames of a body (frames, V, C), in place.

    Joints that are tracked before and after a gap of at most ``MAX_GAP`` frames are interpolated. Returns the
    length of the longest gap that is not filled; 0 if there is none. The official code does not do this.
    """
    tracked = np.flatnonzero(body.any(axis=(1, 2)))
    longest = 0
    for before in np.flatnonzero(np.diff(tracked) > 1):
        start, end = tracked[before], tracked[before + 1]
        if end - start - 1 > MAX_GAP:
            longest = max(longest, int(end - start - 1))
            continue
        known = body[start].any(axis=1) & body[end].any(axis=1)
        weights = np.arange(1, end - start)[:, None, None] / (end - start)
        filled = body[start] * (1 - weights) + body[end] * weights
        body[start + 1 : end] = filled * known[:, None]
    return longest


def center(people: np.ndarray, tracked: np.ndarray, skeleton: Skeleton) -> None:
    """Move the origin of every frame, in place, to the center of the first person.

    It is the mean of the nonzero joints in ``skeleton.center``, or see ``fill_origin``. Joints at exactly
    zero are not moved, nor is the second person without the first. ``tracked``: see ``tracked_joints``.
    """
    x, y, z = np.moveaxis(people != 0, -1, 0)
    nonzero = (x | y | z)[..., None]  # faster than any() over such a short axis
    chosen = list(skeleton.center)
    count = nonzero[:1, :, chosen].sum(axis=2, keepdims=True, dtype=np.float32)
    origin = people[:1, :, chosen].sum(axis=2, keepdims=True) / np.maximum(count, 1)
    if not count.all():
        fill_origin(origin[0, :, 0], people[0], tracked, chosen)
    people -= origin * nonzero


def fill_origin(origin: np.ndarray, person: np.ndarray, tracked: np.ndarray, center: list[int]) -> None:
    """Fill ``origin`` (frames, 3), in place, in the frames of ``person`` that lack the joints of ``center``.

    It is interpolated between the frames that have them; if none has, it is the mean of the tracked joints.
    """
    known = tracked[:, center].any(axis=1)
    missing, frames = np.flatnonzero(tracked.any(axis=1) & ~known), np.flatnonzero(known)
    for axis in range(origin.shape[1]):
        if len(frames):
            origin[missing, axis] = np.interp(missing, frames, origin[frames, axis])
        else:
            origin[missing, axis] = person[missing, :, axis].sum(axis=1) / tracked[missing].sum(axis=1)


def tracked_joints(person: np.ndarray) -> np.ndarray:
    """Return which joints of ``person`` (frames, V, 3) are tracked, ``(frames, V)``.

    A joint at exactly zero is not, unless the origin is within half a longest side of the bounding box of the
    others: then the coordinates are centered already.
    """
    nonzero = person.any(axis=2)
    low = np.where(nonzero[..., None], person, np.inf).min(axis=1)
    high = np.where(nonzero[..., None], person, -np.inf).max(axis=1)
    margin = (high - low).max(axis=1, keepdims=True) / 2  # -inf without any joint
    is_centered = ((low - margin <= 0) & (high + margin >= 0)).all(axis=1)
    return nonzero | is_centered[:, None]


def align_axes(people: np.ndarray, tracked: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Rotate the whole clip so that ``skeleton.z_bone`` is parallel to z, then ``skeleton.x_pair`` to x.

    Both are those of the first person in the first frame in which their joints are ``tracked`` (frames, V),
    and left out if there is none. Returns float32.
    """
    for pair, axis in ((skeleton.z_bone, (0, 0, 1)), (skeleton.x_pair, (1, 0, 0))):
        ends = [list(group_of(end)) for end in pair or ()]
        frames = np.flatnonzero(tracked[:, sum(ends, [])].all(axis=1)) if ends else ()
        if len(frames):
            start, end = (people[0, frames[0], joints].mean(axis=0) for joints in ends)
            # rounded to float32 after each rotation, as in the official code
            people = rotate(people, rotation_between(end - start, axis))
    return people


def scale_by_torso(people: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Return 2D coordinates whose origin is the center of the first person and whose unit is the torso.

    The torso is the median over the frames that show it; the center is interpolated where it is not visible.
    Joints at exactly zero are not visible and stay zero.
    """
    visible = people.any(axis=-1)  # people x frames x V
    person, seen, joints = people[0], visible[0], list(skeleton.center)
    upper, lower = (list(group) for group in skeleton.torso)
    torso = person[:, upper].mean(axis=1) - person[:, lower].mean(axis=1)
    lengths = np.linalg.norm(torso, axis=1)[seen[:, upper + lower].all(axis=1)]
    known = np.flatnonzero(seen[:, joints].all(axis=1))
    if not len(known) or not len(lengths) or np.median(lengths) == 0:
        raise BadFile(f"no frame shows the torso of the first person, by which {skeleton.name} is scaled")
    middle = person[known][:, joints].mean(axis=1)
    origin = np.stack([np.interp(np.arange(len(person)), known, values) for values in middle.T], axis=1)
    scaled = (people - origin[:, None]) / np.median(lengths)
    return np.where(visible[..., None], scaled, 0).astype(np.float32)


def rotate(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Apply a (3, 3) rotation to float32 points (..., 3), computed in float64."""
    x, y, z = np.moveaxis(points.astype(np.float64), -1, 0)
    rotated = np.empty_like(points)
    for i, row in enumerate(rotation):
        rotated[..., i] = row[0] * x + row[1] * y + row[2] * z
    return rotated


def rotation_between(source: np.ndarray, target: tuple[float, float, float]) -> np.ndarray:
    """Return the (3, 3) rotation by the smallest angle from ``source`` (float32) to ``target``.

    It is the identity if the two are parallel or opposite, or if ``source`` is zero. The cosine is computed
    from the float32 direction, as in the official code: it changes small angles by up to 1e-4.
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
