"""The synthetic depth sensors: three cameras watch one performance, each with its own errors.

``observe`` takes the bodies of a performance in the world and returns what one Kinect would
track: joints in camera coordinates (x to the sensor's left, y up, z away from it, metres), each
joint's tracking state, and for every frame which bodies are there, in which order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_gen.synthetic_body import JOINT, PARENTS
from data_gen.synthetic_performance import BodyMotion, Rng, smooth_noise

NUM_CAMERAS = 3
_AZIMUTH = (0.0, -45.0, 45.0)  # degrees, of C001, C002, C003
_SETUP_KEY = 104729  # keeps a setup's generator apart from those of clips
TRACKED, INFERRED = 2, 1


def _joints(*names: str) -> list[int]:
    return [JOINT[name] for name in names]


# chains that are lost together when something hides them
_LIMBS = tuple(
    _joints(*(name + side for name in chain)) for side in ("Left", "Right")
    for chain in (("Elbow", "Wrist", "Hand", "HandTip", "Thumb"), ("Knee", "Ankle", "Foot")))
_JITTER = np.full(25, 0.0015)  # metres at three metres' distance, frame by frame
_DRIFT = np.full(25, 0.004)  # slow wandering
# where this sensor believes a joint to be inside the body: another place for every point of view
_BIAS = np.full(25, 0.018)
_JITTER[_joints("HandLeft", "HandRight", "FootLeft", "FootRight")] = 0.003
_JITTER[_joints("HandTipLeft", "HandTipRight", "ThumbLeft", "ThumbRight")] = 0.006
_DRIFT[_joints("WristLeft", "WristRight", "AnkleLeft", "AnkleRight")] = 0.008
_DRIFT[_joints("HandLeft", "HandRight", "FootLeft", "FootRight", "HandTipLeft", "HandTipRight",
               "ThumbLeft", "ThumbRight")] = 0.014
_LEAVES = [joint for joint in range(25) if joint not in PARENTS.values()]


@dataclass(frozen=True)
class Camera:
    """Where a sensor stands; ``rotation`` (3, 3) turns world axes into camera axes."""

    position: np.ndarray
    rotation: np.ndarray


def place_camera(seed: int, setup: int, camera: int) -> Camera:
    """Height and distance belong to the setup; each camera has a little of its own."""
    shared = np.random.default_rng([seed, setup, _SETUP_KEY])
    height, distance = shared.uniform(0.9, 1.9), shared.uniform(2.6, 3.9)
    own = np.random.default_rng([seed, setup, camera, _SETUP_KEY])
    azimuth = np.radians(_AZIMUTH[camera - 1] + own.normal(0, 3))
    height, distance = height + own.normal(0, 0.08), distance + own.normal(0, 0.15)
    position = np.array([-distance * np.sin(azimuth), height, -distance * np.cos(azimuth)])
    ahead = np.array([0.0, own.normal(0.95, 0.06), 0.0]) - position  # looks at a chest
    z_axis = ahead / np.linalg.norm(ahead)
    x_axis = np.cross([0.0, 1.0, 0.0], z_axis)
    x_axis /= np.linalg.norm(x_axis)
    return Camera(position, np.stack([x_axis, np.cross(z_axis, x_axis), z_axis]))


@dataclass
class TrackedBody:
    """One body as a sensor reports it over T frames."""

    positions: np.ndarray  # (T, 25, 3) metres, camera coordinates
    quaternions: np.ndarray  # (T, 25, 4) as w, x, y, z; zero for the ends of the chains
    states: np.ndarray  # (T, 25) 2 tracked, 1 inferred
    present: np.ndarray  # (T,) bool


@dataclass(frozen=True)
class Recording:
    """What one camera recorded: bodies and, per frame, the order they are listed in."""

    bodies: list[TrackedBody]
    order: np.ndarray  # (T, bodies)


def quaternions_of(matrices: np.ndarray) -> np.ndarray:
    """(..., 3, 3) rotations -> (..., 4) unit quaternions w, x, y, z with w >= 0."""
    xx, yy, zz = (matrices[..., i, i] for i in range(3))
    squares = np.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], -1)
    sign = np.stack([np.ones_like(xx), *(
        np.where(matrices[..., i, j] >= matrices[..., j, i], 1.0, -1.0)
        for i, j in ((2, 1), (0, 2), (1, 0)))], -1)
    return 0.5 * sign * np.sqrt(np.maximum(squares, 0.0))


def hidden_joints(positions: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """(T, 25) bool: joints of ``positions`` (T, 25, 3) behind a trunk or behind the other leg."""
    hidden = np.zeros(positions.shape[:2], dtype=bool)
    for trunk, margin in ((positions, 0.06), *((other, 0.2) for other in others)):
        base, top = trunk[:, :1], trunk[:, JOINT["SpineShoulder"], None]
        behind = positions[..., 2] > 0.5 * (base + top)[..., 2] + margin
        share = np.clip((positions[..., 1] - base[..., 1]) / (top - base)[..., 1], 0.0, 1.0)
        beside = np.abs(positions[..., 0] - base[..., 0] - share * (top - base)[..., 0])
        inside = (positions[..., 1] < top[..., 1] + 0.05) & (
            positions[..., 1] > base[..., 1] - 0.1)
        hidden |= behind & (beside < 0.15) & inside
    legs = {side: _joints(*(name + side for name in ("Knee", "Ankle", "Foot")))
            for side in ("Left", "Right")}
    for side, other in (("Left", "Right"), ("Right", "Left")):
        gap = positions[:, legs[side]] - positions[:, legs[other]]
        hidden[:, legs[side]] |= (gap[..., 2] > 0.08) & (np.abs(gap[..., 0]) < 0.08)
    return hidden


def inferred_joints(hidden: np.ndarray, rng: Rng, difficulty: float) -> np.ndarray:
    """(T, 25) bool: the joints the tracker guesses. Most hidden ones, and limbs lost at random."""
    frames = len(hidden)
    guessed = np.zeros_like(hidden)
    guessed[:, list(PARENTS)] = hidden[:, list(PARENTS)]
    wavering = smooth_noise(rng, frames, np.ones(25)) > -0.4
    guessed &= wavering
    for _ in range(rng.poisson(1.2 * difficulty)):
        limb = _LIMBS[rng.integers(len(_LIMBS))]
        start, length = rng.integers(frames), rng.integers(3, 16)
        guessed[start:start + length, limb[rng.integers(0, 3):]] = True
    return guessed


def sensor_noise(positions: np.ndarray, guessed: np.ndarray, rng: Rng, difficulty: float
                 ) -> np.ndarray:
    """(T, 25, 3): the joints with the tracker's errors. Guessed joints freeze on the body."""
    frames = len(positions)
    base = positions[:, :1]
    # the last frame in which each joint was seen; its place relative to the hips stays
    seen = np.maximum.accumulate(np.where(guessed, 0, np.arange(frames)[:, None]), axis=0)
    frozen = np.take_along_axis(positions - base, seen[..., None], axis=0) + base
    stuck = rng.uniform(0.3, 1.0) * min(1.0, difficulty)
    positions = np.where(guessed[..., None], stuck * frozen + (1 - stuck) * positions, positions)
    farther = (positions[:, :, 2:].clip(0.5) / 3.0) ** 2 * difficulty
    loose = np.where(guessed, 2.5, 1.0)[..., None]
    white = rng.standard_normal(positions.shape, dtype=np.float32) * _JITTER[:, None]
    drift = smooth_noise(rng, frames, np.repeat(_DRIFT, 3)).reshape(positions.shape)
    bias = rng.normal(0, _BIAS[:, None], (25, 3))
    return positions + farther * (loose * (white + drift) + bias)


def _absences(bodies: list[TrackedBody], rng: Rng) -> None:
    """In a few percent of the clips a body is not there: at the start, the middle or the end."""
    for body in bodies:
        frames = len(body.present)
        if rng.random() < 0.05:
            length = int(rng.integers(1, 9))
            start = (0, int(rng.integers(frames - length)), frames - length)[rng.integers(3)]
            body.present[start:start + length] = False


def _spurious_body(frames: int, rng: Rng) -> TrackedBody:
    """A piece of furniture taken for a person for a while: it hardly moves."""
    place = np.array([rng.uniform(-1.0, 1.0), rng.uniform(-0.6, 0.0), rng.uniform(2.0, 4.5)])
    shape = place + rng.normal(0, (0.15, 0.2, 0.1), (25, 3))
    positions = shape + rng.normal(0, 0.001, (frames, 25, 3))
    present = np.zeros(frames, dtype=bool)
    start = int(rng.integers(frames - 10))
    present[start:start + int(rng.integers(10, frames))] = True
    states = np.repeat(rng.integers(1, 3, (1, 25)), frames, axis=0)
    return TrackedBody(positions, np.zeros((frames, 25, 4)), states, present)


def _listing(count: int, people: int, frames: int, rng: Rng) -> np.ndarray:
    """(T, bodies): the order in each frame. Sometimes two people change places midway."""
    order = np.repeat(rng.permutation(count)[None], frames, axis=0)
    if people == 2 and rng.random() < 0.1:
        order[int(rng.integers(5, frames - 5)):] = order[0, ::-1]
    return order


def observe(people: list[BodyMotion], camera: Camera, rng: Rng, difficulty: float = 1.0
            ) -> Recording:
    """What ``camera`` records of a performance; every random error comes from ``rng``."""
    seen = [(body.positions - camera.position) @ camera.rotation.T for body in people]
    bodies = []
    for index, positions in enumerate(seen):
        others = seen[:index] + seen[index + 1:]
        guessed = inferred_joints(hidden_joints(positions, others), rng, difficulty)
        quaternions = quaternions_of(camera.rotation @ people[index].orientations)
        quaternions[:, _LEAVES] = 0.0
        bodies.append(TrackedBody(
            sensor_noise(positions, guessed, rng, difficulty), quaternions,
            np.where(guessed, INFERRED, TRACKED), np.ones(len(positions), dtype=bool)))
    frames = len(seen[0])
    _absences(bodies, rng)
    if rng.random() < 0.04 * difficulty:
        bodies.append(_spurious_body(frames, rng))
    return Recording(bodies, _listing(len(bodies), len(people), frames, rng))
