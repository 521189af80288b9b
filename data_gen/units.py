"""Detect arrays that are not in meters, by the size of the bodies."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from facts.skeletons import KINECT_V2, SKELETONS, Skeleton

PLAUSIBLE_METERS = (0.3, 4.0)  # of the diagonal of a body's bounding box: from a crouching child to a giant
UNITS = {"meters": 1, "centimeters": 100, "millimeters": 1000, "inches": 39.37}


def body_size(array: np.ndarray, skeleton: Skeleton = KINECT_V2) -> float:
    """Return the median diagonal of the bounding boxes of bodies.

    It is 0 if there is no body, if the skeleton is 2D, because it is scaled so that its unit does not matter,
    and if it is not in ``SKELETONS``, because it may be a part of a body.

    Args:
        array: (frames, joints, 3, people), or (frames, joints, 3) for one person; zero for joints and people
            that are not tracked.
    """
    if skeleton.dimensions == 2 or skeleton not in SKELETONS.values():
        return 0.0
    if array.ndim == 3:
        array = array[..., None]
    points = np.moveaxis(array.astype(np.float64), 3, 1).reshape(-1, *array.shape[1:3])
    tracked = points.any(axis=2, keepdims=True)
    complete = tracked.sum(axis=(1, 2)) > array.shape[1] / 2
    if not complete.any():
        return 0.0
    low = np.where(tracked, points, np.inf)[complete].min(axis=1)
    high = np.where(tracked, points, -np.inf)[complete].max(axis=1)
    return float(np.median(np.linalg.norm(high - low, axis=1)))


def unit_warning(sizes: Iterable[float]) -> str | None:
    """Return a warning if the bodies of most clips do not have a plausible size in meters.

    Args:
        sizes: the ``body_size`` of every clip.
    """
    known = [size for size in sizes if size > 0]
    low, high = PLAUSIBLE_METERS
    implausible = [size for size in known if not low <= size <= high]
    if not implausible:
        return None
    median = float(np.median(implausible))
    size = f"{median:,.0f}" if median >= 10 else f"{median:.2g}"
    # the unit in which a body would be closest to 1.7 m
    unit = min(UNITS, key=lambda unit: abs(np.log(median / UNITS[unit] / 1.7)))
    meters = median / UNITS[unit]
    if unit != "meters" and low <= meters <= high:
        fit = (
            f"in {unit} that would be {meters:.1f} m, so divide the coordinates by {UNITS[unit]:,} (unless "
            "the third one is zero or a score: then they are pixels)"
        )
    else:
        fit = "that fits no common unit; if the coordinates are pixels or normalized, scale them to meters"
    return (
        f"in {len(implausible):,} of {len(known):,} clips a body is about {size} units large, although "
        f"coordinates are expected in meters and people are about 1.7 m tall: {fit}. In another unit the "
        "features of pretrained encoders are wrong"
    )
