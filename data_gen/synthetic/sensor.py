"""Simulate the depth sensors: three cameras observe one performance, each with errors of its own."""

from __future__ import annotations

import numpy as np

from data_gen.synthetic.actions import Rng
from data_gen.synthetic.body import JOINT, NUM_JOINTS, SIDES
from data_gen.synthetic.motion import smooth_noise

_AZIMUTH = (0.0, -45.0, 45.0)  # degrees, of cameras 1, 2 and 3
NUM_CAMERAS = len(_AZIMUTH)
_SETUP_KEY = 104729  # separates the generators of setups from those of clips
# From the inside outward; the tracker loses the outer end of such a chain.
_LIMBS = [
    [JOINT[name + side] for name in names]
    for side in SIDES
    for names in (("Elbow", "Wrist", "Hand", "HandTip", "Thumb"), ("Knee", "Ankle", "Foot"))
]
# Errors in meters at a distance of three meters: of the place of a joint inside the body, as seen from this
# side; from frame to frame; slow drift. The last two are larger at the ends of limbs.
_BIAS, _JITTER, _DRIFT = 0.018, 0.0015, 0.004
_GROWTH = {"Wrist": 2, "Ankle": 2, "Hand": 3, "Foot": 3, "HandTip": 4, "Thumb": 4}
_FACTOR = np.array([_GROWTH.get(name.removesuffix("Left").removesuffix("Right"), 1) for name in JOINT])

Camera = tuple[np.ndarray, np.ndarray]  # position (3,) in meters, rotation (3, 3) from world to camera axes


def place_camera(seed: int, setup: int, camera: int) -> Camera:
    """Return a camera: height and distance depend on the setup, with small differences between cameras."""
    setup_rng = np.random.default_rng([seed, setup, _SETUP_KEY])
    rng = np.random.default_rng([seed, setup, camera, _SETUP_KEY])
    height, distance = setup_rng.uniform((0.9, 2.6), (1.9, 3.9)) + rng.normal(0, (0.08, 0.15))
    azimuth = np.radians(_AZIMUTH[camera - 1] + rng.normal(0, 3))
    position = np.array([-distance * np.sin(azimuth), height, -distance * np.cos(azimuth)])
    z_axis = np.array([0.0, rng.normal(0.95, 0.06), 0.0]) - position  # toward the chest of a person
    x_axis = np.cross([0.0, 1.0, 0.0], z_axis)
    axes = np.stack([x_axis, np.cross(z_axis, x_axis), z_axis])
    return position, axes / np.linalg.norm(axes, axis=1, keepdims=True)


def observe(people: list[np.ndarray], camera: Camera, rng: Rng, difficulty: float = 1.0) -> np.ndarray:
    """Return what a camera records of people (T, 25, 3) in world coordinates; ``rng`` determines the errors.

    The result is (T, bodies, 25, 3) in meters, NaN if a body is not found: x to the left of the sensor, y up.
    """
    position, rotation = camera
    bodies = [_track((joints - position) @ rotation.T, rng, difficulty) for joints in people]
    for body in bodies:
        if rng.random() < 0.05 * difficulty:  # not found at the start, in the middle or at the end
            length = int(rng.integers(1, 9))
            start = rng.choice([0, rng.integers(len(body) - length), len(body) - length])
            body[start : start + length] = np.nan
    return np.stack(bodies, axis=1)[:, rng.permutation(len(bodies))]


def _track(positions: np.ndarray, rng: Rng, difficulty: float) -> np.ndarray:
    """Return (T, 25, 3) with the errors of the tracker; joints that it loses freeze relative to the hips."""
    frames = len(positions)
    lost = np.zeros((frames, NUM_JOINTS, 1), dtype=bool)
    for _ in range(rng.poisson(1.2 * difficulty)):
        limb, start = _LIMBS[rng.integers(len(_LIMBS))], rng.integers(frames)
        lost[start : start + rng.integers(3, 16), limb[rng.integers(0, 3) :]] = True
    last_tracked = np.maximum.accumulate(np.where(lost, 0, np.arange(frames)[:, None, None]))
    frozen = np.take_along_axis(positions - positions[:, :1], last_tracked, axis=0) + positions[:, :1]
    share = lost * rng.uniform(0.3, 1.0) * min(1.0, difficulty)
    positions = share * frozen + (1 - share) * positions
    jitter = _JITTER * rng.standard_normal(positions.shape, dtype=np.float32)
    drift = smooth_noise(rng, frames, np.full(positions[0].size, _DRIFT)).reshape(positions.shape)
    errors = np.where(lost, 2.5, 1.0) * _FACTOR[:, None] * (jitter + drift)
    errors += rng.normal(0, _BIAS, (NUM_JOINTS, 3))
    return positions + difficulty * (positions[:, :, 2:].clip(0.5) / 3.0) ** 2 * errors
