"""Detect coordinates that are not in meters, by the length of the bones.

Bones have the same length before and after the normalization, so any source can be checked. 2D skeletons are
scaled, so their unit does not matter.
"""

from __future__ import annotations

import numpy as np

from facts.datasets import NUM_COORDINATES
from facts.skeletons import Skeleton

PLAUSIBLE_METERS = (0.05, 8.0)  # of the longest chain of bones: from a hand to a giant
TYPICAL_METERS = 1.7
UNITS = {"meters": 1, "centimeters": 100, "millimeters": 1000, "inches": 39.37}
SAMPLED_FRAMES = 4  # of each clip
MAX_SCORE_DEVIATION = 0.5  # standard deviation of numbers from 0 to 1


class UnitCheck:
    """Collect the sizes of the bodies of clips, which have the same skeleton, and warn about them."""

    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton
        self.parents = list(skeleton.parents)
        self.chains = np.eye(skeleton.num_joints)  # joint x the bones between it and the root
        joints = ancestors = np.arange(skeleton.num_joints)
        for _ in joints:
            ancestors = np.array(self.parents)[ancestors]
            self.chains[joints, ancestors] = 1
        self.lengths: list[float] = []  # of the longest chains of bones
        self.num_flat = self.num_normalized = 0

    def add(self, frames: np.ndarray, is_normalized: bool = False) -> None:
        """Add a clip; ``frames`` (frames, V, 3, 2 people), before or after the normalization.

        ``is_normalized``: all coordinates were between 0 and 1, as those relative to the size of an image.
        """
        if self.skeleton.dimensions == 2:
            return
        person = frames[:: -(-len(frames) // SAMPLED_FRAMES), :, :, 0].astype(np.float64)
        tracked = (person != 0).max(axis=2)
        tracked[:, list(self.skeleton.center)] |= tracked.max(axis=1, keepdims=True)  # it is the origin
        known = tracked & tracked[:, self.parents]
        difference = person - person[:, self.parents]
        bones = np.sqrt((difference * difference).sum(axis=2)) * known
        bones = bones.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        self.lengths.append(float((self.chains @ bones).max()))
        self.num_normalized += is_normalized
        if self.lengths[-1] > PLAUSIBLE_METERS[1]:
            points = person[tracked.any(axis=1)]
            points = (points - points.mean(axis=1, keepdims=True)).reshape(-1, NUM_COORDINATES)
            thickness = np.sqrt(np.linalg.eigvalsh(points.T @ points / len(points))[0].clip(0))
            self.num_flat += bool(thickness < MAX_SCORE_DEVIATION)

    def warning(self) -> str | None:
        """Return what is wrong with the unit, or None if the coordinates can be meters."""
        low, high = PLAUSIBLE_METERS
        implausible = [length for length in self.lengths if length and not low <= length <= high]
        median = float(np.median(implausible or [TYPICAL_METERS]))
        unit = min(UNITS, key=lambda unit: abs(np.log(median / UNITS[unit] / TYPICAL_METERS)))
        meters = median / UNITS[unit]
        size = f"{median:,.0f}" if median >= 10 else f"{median:.2g}"
        found, count = f"the longest chain of bones has a length of {size}", len(implausible)
        if 2 * self.num_normalized > len(self.lengths):
            found, count = "all coordinates are within [0, 1], as if normalized", self.num_normalized
            advice = "scale them to meters, or give joints of an image as a 2D skeleton (docs/data.md)"
        elif not implausible:
            return None
        elif 2 * self.num_flat > count:
            found += ", and the joints are in a plane, as pixels with a score or zero as the third number"
            advice = "give them as a 2D skeleton (docs/data.md)"
        elif unit != "meters" and low <= meters <= high:
            advice = f"in {unit} that would be {meters:.1f} m, so divide the coordinates by {UNITS[unit]:,}"
        else:
            advice = "that fits no common unit; if they are pixels or normalized, scale them to meters"
        return (
            f"in {count:,} of {len(self.lengths):,} clips {found}, although coordinates are expected in "
            f"meters: {advice}. In another unit the features of pretrained encoders are wrong"
        )
