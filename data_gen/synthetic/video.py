"""Join clips to the long videos of PKU-MMD."""

from __future__ import annotations

import numpy as np

from data_gen.synthetic.body import NUM_JOINTS
from data_gen.synthetic.sensor import SensorClip
from facts.datasets import NUM_COORDINATES, NUM_PEOPLE

# NTU class number -> PKU-MMD class number of the same action
PKU_CLASS = {
    1: 8,
    6: 22,
    7: 41,
    8: 33,
    9: 34,
    10: 6,
    20: 28,
    22: 5,
    23: 13,
    24: 19,
    27: 17,
    28: 20,
    31: 25,
    38: 32,
    50: 26,
    58: 14,
}


def two_bodies(clip: SensorClip) -> np.ndarray:
    """Return (frames, 2 bodies, 25, 3) in meters: the first two present bodies, zero for missing ones."""
    frames = np.zeros((len(clip.order), NUM_PEOPLE, NUM_JOINTS, NUM_COORDINATES))
    for frame, order in enumerate(clip.order):
        present = [clip.bodies[i] for i in order if clip.bodies[i].present[frame]]
        for slot, body in enumerate(present[:NUM_PEOPLE]):
            frames[frame, slot] = body.positions[frame]
    return frames


def join_clips(clips: list[np.ndarray], pauses: list[int]) -> tuple[np.ndarray, list[int]]:
    """Join clips to one video with pauses before, between and after them; also return where each clip starts.

    In a pause the first body moves linearly from the last pose to the next one.
    """
    joined, starts, length = [], [], 0
    for i, pause in enumerate(pauses):
        before, after = clips[max(i - 1, 0)][-1], clips[min(i, len(clips) - 1)][0]
        share = np.linspace(0, 1, pause)[:, None, None]
        transition = np.zeros((pause, *before.shape))
        transition[:, 0] = before[0] * (1 - share) + after[0] * share
        joined.append(transition)
        length += pause
        if i < len(clips):
            joined.append(clips[i])
            starts.append(length)
            length += len(clips[i])
    return np.concatenate(joined), starts
