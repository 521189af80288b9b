"""Simulate the depth sensors: three cameras observe one performance, each with errors of its own.

``observe`` takes the bodies of a performance in world coordinates and returns what one Kinect would track:
joints in camera coordinates (x to the left of the sensor, y up, z away from it, meters), the tracking state
of each joint, and which bodies are present in each frame, in which order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_gen.synthetic.actions import Rng
from data_gen.synthetic.body import JOINT, NUM_JOINTS, PARENTS
from data_gen.synthetic.performance import BodyMotion, smooth_noise

NUM_CAMERAS = 3
TRACKED, INFERRED = 2, 1
_AZIMUTH = (0.0, -45.0, 45.0)  # degrees, of C001, C002, C003
_SETUP_KEY = 104729  # separates the generators of setups from those of clips


def _joints(*names: str) -> list[int]:
    return [JOINT[name] for name in names]


# chains of joints that are lost together when they are occluded
_LIMBS = tuple(
    _joints(*(name + side for name in chain))
    for side in ("Left", "Right")
    for chain in (("Elbow", "Wrist", "Hand", "HandTip", "Thumb"), ("Knee", "Ankle", "Foot"))
)
_JITTER = np.full(NUM_JOINTS, 0.0015)  # meters at a distance of three meters, independent per frame
_DRIFT = np.full(NUM_JOINTS, 0.004)  # slow drift
# where this sensor places a joint inside the body, which depends on the point of view
_BIAS = np.full(NUM_JOINTS, 0.018)
_JITTER[_joints("HandLeft", "HandRight", "FootLeft", "FootRight")] = 0.003
_JITTER[_joints("HandTipLeft", "HandTipRight", "ThumbLeft", "ThumbRight")] = 0.006
_DRIFT[_joints("WristLeft", "WristRight", "AnkleLeft", "AnkleRight")] = 0.008
_DRIFT[_joints("HandLeft", "HandRight", "FootLeft", "FootRight")] = 0.014
_DRIFT[_joints("HandTipLeft", "HandTipRight", "ThumbLeft", "ThumbRight")] = 0.014
_LEAVES = [joint for joint in range(NUM_JOINTS) if joint not in PARENTS.values()]


@dataclass(frozen=True)
class Camera:
    """A sensor: ``position`` in meters, and ``rotation`` (3, 3) from world to camera axes."""

    position: np.ndarray
    rotation: np.ndarray


@dataclass
class TrackedBody:
    """One body as a sensor reports it over T frames."""

    positions: np.ndarray  # (T, 25, 3) meters, camera coordinates
    quaternions: np.ndarray  # (T, 25, 4) as w, x, y, z; zero for the ends of the chains
    states: np.ndarray  # (T, 25) 2 tracked, 1 inferred
    present: np.ndarray  # (T,) bool


@dataclass(frozen=True)
class SensorClip:
    """One performance as one camera records it: the bodies, and their order in each frame."""

    bodies: list[TrackedBody]
    order: np.ndarray  # (T, bodies)


def place_camera(seed: int, setup: int, camera: int) -> Camera:
    """Return a camera: height and distance depend on the setup, with small differences between cameras."""
    setup_rng = np.random.default_rng([seed, setup, _SETUP_KEY])
    height, distance = setup_rng.uniform(0.9, 1.9), setup_rng.uniform(2.6, 3.9)
    camera_rng = np.random.default_rng([seed, setup, camera, _SETUP_KEY])
    azimuth = np.radians(_AZIMUTH[camera - 1] + camera_rng.normal(0, 3))
    height, distance = height + camera_rng.normal(0, 0.08), distance + camera_rng.normal(0, 0.15)
    position = np.array([-distance * np.sin(azimuth), height, -distance * np.cos(azimuth)])
    ahead = np.array([0.0, camera_rng.normal(0.95, 0.06), 0.0]) - position  # toward the chest of a person
    z_axis = ahead / np.linalg.norm(ahead)
    x_axis = np.cross([0.0, 1.0, 0.0], z_axis)
    x_axis /= np.linalg.norm(x_axis)
    return Camera(position, np.stack([x_axis, np.cross(z_axis, x_axis), z_axis]))


def observe(people: list[BodyMotion], camera: Camera, rng: Rng, difficulty: float = 1.0) -> SensorClip:
    """Return the clip that ``camera`` records of a performance; ``rng`` determines all errors."""
    positions_of = [(body.positions - camera.position) @ camera.rotation.T for body in people]
    bodies = []
    for index, positions in enumerate(positions_of):
        others = positions_of[:index] + positions_of[index + 1 :]
        inferred = inferred_joints(hidden_joints(positions, others), rng, difficulty)
        quaternions = quaternions_of(camera.rotation @ people[index].orientations)
        quaternions[:, _LEAVES] = 0.0
        bodies.append(
            TrackedBody(
                add_sensor_noise(positions, inferred, rng, difficulty),
                quaternions,
                states=np.where(inferred, INFERRED, TRACKED),
                present=np.ones(len(positions), dtype=bool),
            )
        )
    frames = len(positions_of[0])
    _lose_bodies(bodies, rng)
    if rng.random() < 0.04 * difficulty:
        bodies.append(_false_body(frames, rng))
    return SensorClip(bodies, _body_order(len(bodies), len(people), frames, rng))


def quaternions_of(matrices: np.ndarray) -> np.ndarray:
    """Convert (..., 3, 3) rotations to (..., 4) unit quaternions w, x, y, z with w >= 0."""
    xx, yy, zz = (matrices[..., i, i] for i in range(3))
    squares = np.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], -1)
    signs = [
        np.where(matrices[..., i, j] >= matrices[..., j, i], 1.0, -1.0) for i, j in ((2, 1), (0, 2), (1, 0))
    ]
    return 0.5 * np.stack([np.ones_like(xx), *signs], -1) * np.sqrt(np.maximum(squares, 0.0))


def hidden_joints(positions: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """Return (T, 25) bool: the joints of ``positions`` (T, 25, 3) behind a trunk or behind the other leg."""
    hidden = np.zeros(positions.shape[:2], dtype=bool)
    for trunk, margin in ((positions, 0.06), *((other, 0.2) for other in others)):
        base, top = trunk[:, :1], trunk[:, JOINT["SpineShoulder"], None]
        behind = positions[..., 2] > 0.5 * (base + top)[..., 2] + margin
        share = np.clip((positions[..., 1] - base[..., 1]) / (top - base)[..., 1], 0.0, 1.0)
        offset = np.abs(positions[..., 0] - base[..., 0] - share * (top - base)[..., 0])
        inside = (positions[..., 1] < top[..., 1] + 0.05) & (positions[..., 1] > base[..., 1] - 0.1)
        hidden |= behind & (offset < 0.15) & inside
    legs = {side: _joints(*(name + side for name in ("Knee", "Ankle", "Foot"))) for side in ("Left", "Right")}
    for side, other in (("Left", "Right"), ("Right", "Left")):
        gap = positions[:, legs[side]] - positions[:, legs[other]]
        hidden[:, legs[side]] |= (gap[..., 2] > 0.08) & (np.abs(gap[..., 0]) < 0.08)
    return hidden


def inferred_joints(hidden: np.ndarray, rng: Rng, difficulty: float) -> np.ndarray:
    """Return (T, 25) bool: the joints that the tracker infers, most hidden ones and limbs lost at random."""
    frames = len(hidden)
    inferred = np.zeros_like(hidden)
    inferred[:, list(PARENTS)] = hidden[:, list(PARENTS)]
    inferred &= smooth_noise(rng, frames, np.ones(NUM_JOINTS)) > -0.4
    for _ in range(rng.poisson(1.2 * difficulty)):
        limb = _LIMBS[rng.integers(len(_LIMBS))]
        start, length = rng.integers(frames), rng.integers(3, 16)
        inferred[start : start + length, limb[rng.integers(0, 3) :]] = True
    return inferred


def add_sensor_noise(positions: np.ndarray, inferred: np.ndarray, rng: Rng, difficulty: float) -> np.ndarray:
    """Return (T, 25, 3) with the errors of the tracker; inferred joints freeze relative to the hips."""
    frames = len(positions)
    base = positions[:, :1]
    # the last frame in which each joint was tracked
    last_tracked = np.maximum.accumulate(np.where(inferred, 0, np.arange(frames)[:, None]), axis=0)
    frozen = np.take_along_axis(positions - base, last_tracked[..., None], axis=0) + base
    stuck = rng.uniform(0.3, 1.0) * min(1.0, difficulty)
    positions = np.where(inferred[..., None], stuck * frozen + (1 - stuck) * positions, positions)
    distance_factor = (positions[:, :, 2:].clip(0.5) / 3.0) ** 2 * difficulty
    inferred_factor = np.where(inferred, 2.5, 1.0)[..., None]
    jitter = rng.standard_normal(positions.shape, dtype=np.float32) * _JITTER[:, None]
    drift = smooth_noise(rng, frames, np.repeat(_DRIFT, 3)).reshape(positions.shape)
    bias = rng.normal(0, _BIAS[:, None], (NUM_JOINTS, 3))
    return positions + distance_factor * (inferred_factor * (jitter + drift) + bias)


def _lose_bodies(bodies: list[TrackedBody], rng: Rng) -> None:
    """Lose a body for a few frames in some of the clips: at the start, in the middle or at the end."""
    for body in bodies:
        frames = len(body.present)
        if rng.random() < 0.05:
            length = int(rng.integers(1, 9))
            start = (0, int(rng.integers(frames - length)), frames - length)[rng.integers(3)]
            body.present[start : start + length] = False


def _false_body(frames: int, rng: Rng) -> TrackedBody:
    """Return a nearly static false detection, such as furniture."""
    place = np.array([rng.uniform(-1.0, 1.0), rng.uniform(-0.6, 0.0), rng.uniform(2.0, 4.5)])
    shape = place + rng.normal(0, (0.15, 0.2, 0.1), (NUM_JOINTS, 3))
    positions = shape + rng.normal(0, 0.001, (frames, NUM_JOINTS, 3))
    present = np.zeros(frames, dtype=bool)
    start = int(rng.integers(frames - 10))
    present[start : start + int(rng.integers(10, frames))] = True
    states = np.repeat(rng.integers(1, 3, (1, NUM_JOINTS)), frames, axis=0)
    return TrackedBody(positions, np.zeros((frames, NUM_JOINTS, 4)), states, present)


def _body_order(count: int, people: int, frames: int, rng: Rng) -> np.ndarray:
    """Return (T, bodies): the order of the bodies in each frame; two people sometimes swap midway."""
    order = np.repeat(rng.permutation(count)[None], frames, axis=0)
    if people == 2 and rng.random() < 0.1:
        order[int(rng.integers(5, frames - 5)) :] = order[0, ::-1]
    return order
