"""Perform an action: one or two people move once, before any camera.

``perform`` converts the key poses of an action to joint positions in world coordinates. It adds what
distinguishes clips of one class: body, tempo, style and handedness of the subject, idle time before and
after, sway, glances, gestures of the idle arm, a slow turn of the whole body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_gen.synthetic import body
from data_gen.synthetic.actions import ACTIONS, ARM_POSES, IDLE_ARMS, KeyPoses, Rng, arm, sample_script
from data_gen.synthetic.body import CHANNEL, CHANNELS

FRAMES_PER_SECOND = 30.0
SHORTEST, LONGEST = 40, 110  # frames; LONGEST at the default idle time and tempo
SPEED = 1.3  # the times in actions.py are for slow movements
DEFAULT_IDLE = 1.2  # seconds
PARTNERS = 20  # a partner is one of the first PARTNERS subjects
_SUBJECT_KEY = 7919  # separates the generators of subjects from those of clips
Numbers = tuple[int, int, int, int]  # setup, subject, repetition and action, as in an NTU file name


def per_channel(**degrees: float) -> np.ndarray:
    """Return (channels,) with values for one side or for both, and 0 for the channels not named."""
    return np.array([degrees.get(name, degrees.get(name[2:], 0.0)) for name in CHANNELS])


_HANG = dict(zip(body.ARM, ARM_POSES["hang"]))
_STANDING = per_channel(bend=3, nod=6, hip_abd=5, hip=2.5, knee=5, **_HANG)
# Standard deviations in degrees at difficulty 1: of the posture of a person, the pose at rest in a clip, key
# poses, idle sway, the first frame.
_POSTURE = per_channel(bend=4, nod=6, flex=4, abd=4, twist=4, elbow=4, hip_abd=2, knee=1.5)
_REST = per_channel(turn=8, side=3, bend=4, look=12, support=0.5, hip=4, hip_abd=2)
_ARMS = {"flex": 13, "abd": 10, "twist": 10, "elbow": 13, "wrist": 13}
_KEY_POSES = per_channel(bend=6, side=3, turn=8, nod=8, tilt=5, look=13, hip=5, knee=6, hip_abd=3, **_ARMS)
_SWAY = 0.6 * _KEY_POSES + per_channel(yaw=9, turn=3, look=4, side=2, support=0.4)
_MISALIGNMENT = per_channel(turn=38, side=12, bend=16, yaw=21)
# Glances and turns: channel, degrees, probability.
_GESTURES = (("look", 32, 0.6), ("turn", 16, 0.5), ("nod", 14, 0.4), ("side", 9, 0.4), ("yaw", 32, 0.6))


@dataclass(frozen=True)
class Variation:
    """How much the clips of one class differ; see the flags of ``make_ntu.py``."""

    difficulty: float = 1.0
    settle: float = 1.0
    idle: float = DEFAULT_IDLE  # seconds
    tempo: float = 0.0
    turn: float = 0.0  # degrees
    body: float = 0.0


class Subject:
    """A person, who has the same body, posture, style and habits in all clips of a seed."""

    def __init__(self, seed: int, number: int, variation: Variation = Variation()) -> None:
        rng = np.random.default_rng([seed, number, _SUBJECT_KEY])
        factors = 1.0 + rng.normal(0, list(body.PROPORTIONS.values())).clip(-0.18, 0.18)
        scale, *scales = (1.0 + variation.body) ** rng.uniform(-1, 1, 1 + len(factors))
        factors = dict(zip(body.PROPORTIONS, factors * scales))
        self.bones = body.bone_offsets(scale * rng.uniform(0.88, 1.1), **factors)
        self.posture = _STANDING + rng.normal(0, _POSTURE)
        self.style = rng.normal(0, 0.8 * variation.difficulty * _KEY_POSES)  # added to every key pose
        self.tempo = float(np.exp(rng.normal(0, 0.18)))  # 1 is average, 1.2 is fast
        self.amplitude = rng.normal(0.97, 0.07)  # 1 is average, less is restrained
        self.left_handed = rng.random() < 0.1
        self.arm_habits = rng.dirichlet((6.0, 1, 0.8, 0.8, 0.8, 0.5, 0.3))  # probabilities of IDLE_ARMS


def perform(seed: int, numbers: Numbers, variation: Variation = Variation()) -> list[np.ndarray]:
    """Return the joints (T, 25, 3) of each person in meters, around x = z = 0 on the floor y = 0."""
    rng = np.random.default_rng([seed, *numbers])
    _, subject, repetition, action = numbers
    _, names, both, gap = ACTIONS[action]
    partner = (subject - 1 + int(rng.integers(1, PARTNERS))) % PARTNERS + 1
    people = [Subject(seed, number, variation) for number in (subject, partner)[: len(names)]]
    scripts = {name: sample_script(name, both, rng) for name in names}
    tempo = SPEED * people[0].tempo * float(np.exp(rng.normal(0, 0.15)))
    tempo *= (1.0 + variation.tempo) ** rng.uniform(-1, 1)
    times, frames = _sample_times(scripts[names[0]], tempo, rng, variation)
    # 0 faces the middle camera. As in NTU, a subject faces the left camera in one repetition and the right
    # one in the next. Two people stand at right angles to the view of the middle camera and change sides.
    heading = (90.0 if gap else 45.0) * (-1.0 if repetition % 2 else 1.0) + rng.normal(0, 12)
    center, gap = rng.normal(0, (0.25, 0.0, 0.25)), gap * rng.normal(1, 0.05)
    turn, turning = variation.turn * rng.uniform(-1, 1), rng.uniform(15, 30)  # degrees, frames
    motions = []
    for person, name in zip(people, names):
        if name != names[0]:
            times = times[0] + np.cumsum([seconds for seconds, _ in scripts[name]]) / tempo
        angles = _move(scripts[name], times, frames, person, rng, variation)
        other_hand = person.left_handed != (rng.random() < 0.2)
        if other_hand and len(scripts) == len(people):
            angles = body.mirror(angles)
        angles[:, CHANNEL["yaw"]] += heading + turn * (1.0 - minimum_jerk(np.arange(frames) / turning))
        forward = -np.array([np.sin(np.radians(heading)), 0.0, np.cos(np.radians(heading))])
        motions.append(body.forward_kinematics(angles, person.bones, center - 0.5 * gap * forward))
        heading += 180.0  # the partner faces the subject
    return motions


def _sample_times(keys: KeyPoses, tempo: float, rng: Rng, variation: Variation) -> tuple[np.ndarray, int]:
    """Return the time (K,) of each key pose in seconds, and the number of frames of the clip."""
    steps = np.array([seconds for seconds, _ in keys]) / tempo
    times = np.cumsum(steps * np.exp(rng.normal(0, 0.2, len(steps))))
    before, after = rng.uniform(0, variation.idle, 2) * (rng.random(2) < 0.8)
    total = before + times[-1] + after
    more_idle = 2.0 * max(0.0, variation.idle - DEFAULT_IDLE) * FRAMES_PER_SECOND
    limit = LONGEST * (1.0 + variation.tempo) + more_idle  # frames
    shrink = min(1.0, rng.uniform(0.8, 1.0) * limit / FRAMES_PER_SECOND / total)
    late = (before + rng.uniform(0, 0.2) * times[-1]) * (rng.random() < 0.3)  # some start after the action
    shortest = SHORTEST + int(rng.integers(0, 12))
    frames = (total - late) * shrink * FRAMES_PER_SECOND
    return (before + times - late) * shrink, int(np.clip(frames, shortest, limit))


def _move(
    keys: KeyPoses, times: np.ndarray, frames: int, person: Subject, rng: Rng, variation: Variation
) -> np.ndarray:
    """Return (T, channels): the joint angles of a person in every frame."""
    difficulty = variation.difficulty
    key_angles = _sample_key_angles(keys, person, rng, difficulty)
    angles = interpolate(key_angles, times, np.arange(frames) / FRAMES_PER_SECOND)
    angles += smooth_noise(rng, frames, difficulty * _SWAY)
    for name, degrees, probability in _GESTURES:
        if rng.random() < probability * difficulty:
            angles[:, CHANNEL[name]] += _sample_bump(frames, rng) * rng.normal(0, degrees)
    used = {name for _, channels in keys for name in channels}
    for side in ("l_", "r_"):  # gestures of an idle arm
        if side + "flex" not in used and rng.random() < 0.6 * difficulty:
            weight = _sample_bump(frames, rng) * rng.uniform(0.4, 1.0)
            for name, value in arm(side, str(rng.choice(IDLE_ARMS))).items():
                angles[:, CHANNEL[name]] += weight * (value - angles[:, CHANNEL[name]])
    # The trunk is turned, leans and straightens within two thirds of a second. The effect is larger than the
    # duration suggests: normalization aligns the first frame, so it rotates the whole clip.
    settled = minimum_jerk(np.arange(frames) / rng.uniform(8, 20))[:, None]
    angles += (1.0 - settled) * variation.settle * rng.normal(0, _MISALIGNMENT)
    for name in ("l_elbow", "r_elbow", "l_knee", "r_knee"):
        angles[:, CHANNEL[name]] = angles[:, CHANNEL[name]].clip(0.0, 150.0)
    return angles


def _sample_key_angles(keys: KeyPoses, person: Subject, rng: Rng, difficulty: float) -> np.ndarray:
    """Return (K, channels): the key poses as this person performs them in this clip."""
    rest = person.posture + difficulty * rng.normal(0, _REST)
    for side, probability in (("l_", 0.7), ("r_", 0.35)):
        name = str(rng.choice(IDLE_ARMS, p=person.arm_habits))
        if name != "hang" and rng.random() < probability * difficulty:
            for channel, value in arm(side, name).items():
                rest[CHANNEL[channel]] = value
    amplitude = person.amplitude * rng.normal(1, 0.05)
    noise = difficulty * _KEY_POSES
    manner = person.style + rng.normal(0, 0.9 * noise)  # the same at every key pose of the clip
    angles = np.repeat(rest[None], len(keys), axis=0)
    for row, (_, channels) in zip(angles, keys):
        for name, value in channels.items():  # those of the trunk add to the posture
            column = CHANNEL[name]
            row[column] += amplitude * (value if name in body.TRUNK else value - row[column])
        if channels:
            row += manner + rng.normal(0, 0.4 * noise)
    return angles


def interpolate(angles: np.ndarray, times: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Interpolate key poses (K, C) at ``times`` (K,) to (T, C) at ``frames`` (T,); times are in seconds."""
    segment = np.clip(np.searchsorted(times, frames, side="right") - 1, 0, len(times) - 2)
    span = np.maximum(times[segment + 1] - times[segment], 1e-6)
    share = minimum_jerk((frames - times[segment]) / span)[:, None]
    return angles[segment] * (1 - share) + angles[segment + 1] * share


def minimum_jerk(share: np.ndarray) -> np.ndarray:
    """Return the covered share (0 to 1) of a smooth movement at a share (0 to 1) of its duration."""
    share = np.clip(share, 0.0, 1.0)
    return share**3 * (10.0 - 15.0 * share + 6.0 * share**2)


def _sample_bump(frames: int, rng: Rng) -> np.ndarray:
    """Return (T,) that rises to 1 at a random time, stays there for a while, and falls again."""
    time, rise = np.arange(frames), rng.uniform(8, 22)
    start, stay = rng.uniform((-0.2, 0), (0.9, 0.5)) * frames
    return minimum_jerk((time - start) / rise) * minimum_jerk((start + 2 * rise + stay - time) / rise)


def smooth_noise(rng: Rng, frames: int, scale: np.ndarray) -> np.ndarray:
    """Return (T, C) slow noise, a sum of sinusoids with the standard deviations ``scale`` (C,)."""
    hertz = np.exp(rng.uniform(np.log(0.08), np.log(0.7), (3, 1, len(scale))))
    phase = rng.uniform(0, 2 * np.pi, hertz.shape)
    seconds = np.arange(frames)[None, :, None] / FRAMES_PER_SECOND
    return scale * np.sqrt(2 / 3) * np.sin(2 * np.pi * hertz * seconds + phase).sum(0)
