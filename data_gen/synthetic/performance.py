"""Perform an action: one or two people move once, before any camera.

``perform`` converts the key poses of an action to joint positions in world coordinates. It adds what
distinguishes clips of one class: the body, tempo and style of the subject, the side of the body, waiting
before and after, sway, glances, gestures of the idle arm, a slow turn of the whole body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_gen.synthetic.actions import ACTIONS, ARM_POSES, GAP, IDLE_ARMS, TOGETHER, KeyPoses, Rng, pose
from data_gen.synthetic.body import CHANNEL, CHANNELS, LATERAL, bone_offsets, forward_kinematics

FRAMES_PER_SECOND = 30.0
SHORTEST, LONGEST = 40, 110  # frames; LONGEST at the default idle time and tempo
SPEED = 1.3  # the times in actions.py are for slow movements
DEFAULT_IDLE = 1.2  # seconds
PARTNERS = 20  # a partner is one of the first PARTNERS subjects
_SUBJECT_KEY = 7919  # separates the generators of subjects from those of clips
# Separates the generators of tempo, turn and body size, so that these do not change any other random number.
_VARIATION_KEY = 15485863

# Variation without meaning, in degrees at difficulty 1: of the key poses of a clip, and idle sway.
_KEY_NOISE = {
    "flex": 8,
    "abd": 6,
    "twist": 6,
    "elbow": 8,
    "wrist": 8,
    "bend": 4,
    "side": 2,
    "turn": 5,
    "nod": 5,
    "tilt": 3,
    "look": 8,
    "hip": 3,
    "knee": 4,
    "hip_abd": 2,
}
_SWAY = {
    "flex": 5,
    "abd": 4,
    "twist": 6,
    "elbow": 6,
    "wrist": 6,
    "bend": 3,
    "side": 3,
    "turn": 6,
    "nod": 4,
    "tilt": 3,
    "look": 9,
    "hip": 2,
    "knee": 3,
    "hip_abd": 2,
    "yaw": 7,
    "support": 0.3,
    "shrug": 0.04,
}
_MISALIGNMENT = {"turn": 28, "side": 9, "bend": 12, "yaw": 15}  # degrees, in the first frame
# Glances and turns: channel, degrees, probability.
_GESTURES = (("look", 32, 0.6), ("turn", 16, 0.5), ("nod", 14, 0.4), ("side", 9, 0.4), ("yaw", 32, 0.6))


@dataclass(frozen=True)
class Variation:
    """How much the clips of one class differ.

    Args:
        difficulty: scales sway, gestures, style and sensor noise.
        settle: scales the misalignment of the trunk in the first frames.
        idle: maximum idle time before and after the action, in seconds each.
        tempo: a clip is faster or slower by up to this fraction; the slowest takes 1 + tempo times the time.
        turn: maximum angle in degrees, to either side, by which a person is turned in the first frame.
        body: body height and the length of each limb differ by up to this fraction.
    """

    difficulty: float = 1.0
    settle: float = 1.0
    idle: float = DEFAULT_IDLE
    tempo: float = 0.0
    turn: float = 0.0
    body: float = 0.0

    @property
    def longest(self) -> float:
        """Frames of the longest clip."""
        idle = max(0.0, self.idle - DEFAULT_IDLE)
        return LONGEST * (1.0 + self.tempo) + 2.0 * idle * FRAMES_PER_SECOND


class Performance(NamedTuple):
    """The numbers of an NTU file name that all cameras share, counted from 1."""

    setup: int
    subject: int
    repetition: int
    action: int


@dataclass(frozen=True)
class BodyMotion:
    """The motion of one person in world coordinates: positions (T, 25, 3), orientations (T, 25, 3, 3)."""

    positions: np.ndarray
    orientations: np.ndarray


@dataclass(frozen=True)
class Subject:
    """The properties of a person that are the same in all clips."""

    offsets: np.ndarray  # (25, 3) meters
    posture: np.ndarray  # (channels,) the resting pose
    style: np.ndarray  # (channels,) degrees added to every key pose
    tempo: float  # 1 is average, 1.2 is fast
    amplitude: float  # 1 is average, less is restrained
    left_handed: bool
    arm_habits: np.ndarray  # probability of each of IDLE_ARMS


def perform(seed: int, performance: Performance, variation: Variation = Variation()) -> list[BodyMotion]:
    """Return the motion of each person; it is a function of the arguments.

    The floor is y = 0, and the performance is around x = z = 0.
    """
    action = performance.action
    rng = np.random.default_rng([seed, *performance])
    variation_rng = np.random.default_rng([seed, *performance, _VARIATION_KEY])
    people = _sample_people(seed, performance, rng, variation)
    scripts = [role(rng) for role in ACTIONS[action]]
    if action in TOGETHER:
        scripts[1] = scripts[0]
    tempo = people[0].tempo * float(np.exp(rng.normal(0, 0.15)))
    tempo *= (1.0 + variation.tempo) ** variation_rng.uniform(-1, 1)
    times, frames = sample_times(scripts[0], tempo, rng, variation)
    heading = _sample_heading(performance.repetition, len(people) == 2, rng)
    center = rng.normal(0, (0.25, 0.0, 0.25))
    gap = GAP.get(action, 0.0) * rng.normal(1, 0.05)
    motions = []
    for index, (person, keys) in enumerate(zip(people, scripts)):
        person_times = times
        if keys is not scripts[0]:
            person_times = times[0] + np.cumsum([seconds / (SPEED * tempo) for seconds, _ in keys])
        # sometimes the other hand; hands are shaken with the right one
        other_hand = person.left_handed != (rng.random() < 0.2) and action not in TOGETHER
        angles = move(keys, person_times, frames, person, rng, variation)
        if other_hand:
            angles = mirror(angles)
        direction = heading + 180.0 * index
        angles[:, CHANNEL["yaw"]] += direction + initial_turn(frames, variation_rng, variation.turn)
        forward = -np.array([np.sin(np.radians(direction)), 0.0, np.cos(np.radians(direction))])
        place = np.tile(center - 0.5 * gap * forward, (frames, 1))
        motions.append(BodyMotion(*forward_kinematics(angles, person.offsets, place)))
    return motions


def sample_subject(seed: int, subject: int, variation: Variation = Variation()) -> Subject:
    """Return the person with this number; the same one in every clip of a seed."""
    rng = np.random.default_rng([seed, subject, _SUBJECT_KEY])
    factors = 1.0 + rng.normal(0, (0.05, 0.05, 0.05, 0.08, 0.08, 0.06)).clip(-0.18, 0.18)
    variation_rng = np.random.default_rng([seed, subject, _SUBJECT_KEY, _VARIATION_KEY])
    scale, *scales = (1.0 + variation.body) ** variation_rng.uniform(-1, 1, 1 + len(factors))
    bones = dict(zip(("torso", "arms", "legs", "shoulders", "hips", "head"), factors * scales))
    offsets = bone_offsets(height=scale * rng.uniform(0.88, 1.1), **bones)
    posture = np.zeros(len(CHANNELS))
    stance, knees = rng.uniform(1, 9), rng.uniform(2, 8)
    for side in ("l_", "r_"):
        for name, value in zip(("flex", "abd", "twist", "elbow"), ARM_POSES["hang"]):
            posture[CHANNEL[side + name]] = value + rng.normal(0, 4)
        posture[CHANNEL[side + "hip_abd"]] = stance
        posture[CHANNEL[side + "hip"]] = knees / 2
        posture[CHANNEL[side + "knee"]] = knees
    posture[CHANNEL["bend"]] = rng.normal(3, 4)
    posture[CHANNEL["nod"]] = rng.normal(6, 6)
    return Subject(
        offsets,
        posture,
        style=rng.normal(0, 0.8 * variation.difficulty * _per_channel(_KEY_NOISE)),
        tempo=float(np.exp(rng.normal(0, 0.18))),
        amplitude=float(np.clip(rng.normal(0.97, 0.07), 0.8, 1.12)),
        left_handed=bool(rng.random() < 0.1),
        arm_habits=rng.dirichlet((6.0, 1, 0.8, 0.8, 0.8, 0.5, 0.3)),
    )


def _sample_people(seed: int, performance: Performance, rng: Rng, variation: Variation) -> list[Subject]:
    """Return the subject, and a partner if the action needs one."""
    people = [sample_subject(seed, performance.subject, variation)]
    if len(ACTIONS[performance.action]) == 2:
        partner = (performance.subject - 1 + int(rng.integers(1, PARTNERS))) % PARTNERS + 1
        people.append(sample_subject(seed, partner, variation))
    return people


def _sample_heading(repetition: int, two_people: bool, rng: Rng) -> float:
    """Return the direction of the performance in degrees; 0 faces the middle camera.

    As in NTU, a subject faces the left camera in one repetition and the right camera in the next. Two people
    stand at right angles to the view of the middle camera and change sides.
    """
    side = -1.0 if repetition % 2 else 1.0
    return side * (90.0 if two_people else 45.0) + rng.normal(0, 12)


def sample_times(keys: KeyPoses, tempo: float, rng: Rng, variation: Variation) -> tuple[np.ndarray, int]:
    """Return the time (K,) of each key pose in seconds, and the number of frames of the clip."""
    steps = np.array([seconds for seconds, _ in keys]) / (SPEED * tempo)
    times = np.cumsum(steps * np.exp(rng.normal(0, 0.2, len(steps))))
    before, after = rng.uniform(0, variation.idle, 2) * (rng.random(2) < 0.8)
    total = before + times[-1] + after
    longest = rng.uniform(0.8, 1.0) * variation.longest / FRAMES_PER_SECOND
    if total > longest:
        before, times, total = (value * longest / total for value in (before, times, total))
    if rng.random() < 0.3:  # the clip starts after the action
        late = before + rng.uniform(0, 0.2) * times[-1]
        before, total = before - late, total - late
    shortest = SHORTEST + int(rng.integers(0, 12))
    return before + times, int(np.clip(total * FRAMES_PER_SECOND, shortest, variation.longest))


def move(
    keys: KeyPoses,
    times: np.ndarray,
    frames: int,
    subject: Subject,
    rng: Rng,
    variation: Variation,
) -> np.ndarray:
    """Return (T, channels): the joint angles of the subject in every frame."""
    difficulty = variation.difficulty
    rest = sample_rest(subject, rng, difficulty)
    lag = rng.normal(0, 0.04 * difficulty, len(CHANNELS))
    lag[CHANNEL["lift"]] = 0.0
    seconds = np.arange(frames) / FRAMES_PER_SECOND
    angles = interpolate(sample_key_angles(keys, rest, subject, rng, difficulty), times, seconds, lag)
    used = {name for _, channels in keys for name in channels}
    angles = add_incidental_motion(angles, used, rng, difficulty)
    angles = angles + initial_misalignment(frames, rng, variation.settle)
    # smoothing over three frames: people do not stop abruptly at a key pose
    padded = np.concatenate([angles[:1], angles, angles[-1:]])
    angles = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    for side in ("l_", "r_"):
        for name, limit in (("elbow", 152.0), ("knee", 140.0)):
            joint = angles[:, CHANNEL[side + name]]
            np.clip(joint, 0.0, limit, out=joint)
    return angles


def sample_rest(subject: Subject, rng: Rng, difficulty: float) -> np.ndarray:
    """Return (channels,): the pose of the subject in this clip before the action."""
    rest = subject.posture.copy()
    for side, word in (("l_", "left"), ("r_", "right")):
        name = str(rng.choice(IDLE_ARMS, p=subject.arm_habits))
        if name != "hang" and rng.random() < 0.7 * difficulty * (1.0 if side == "l_" else 0.5):
            for channel, value in pose(**{word: name}).items():
                rest[CHANNEL[channel]] = value
    spread, step = difficulty * rng.normal(0, (3.0, 4.0))
    rest[[CHANNEL["l_hip"], CHANNEL["r_hip"]]] += step, -step  # one foot in front
    rest[[CHANNEL["l_hip_abd"], CHANNEL["r_hip_abd"]]] += spread
    # A trunk that is not square to the legs. Normalization aligns the shoulders of the first frame, so it
    # rotates the whole clip.
    for name, degrees in (("turn", 8), ("side", 3), ("bend", 4), ("look", 12)):
        rest[CHANNEL[name]] += difficulty * rng.normal(0, degrees)
    rest[CHANNEL["support"]] = np.clip(rng.normal(0, 0.5), -1, 1)
    return rest


def sample_key_angles(
    keys: KeyPoses, rest: np.ndarray, subject: Subject, rng: Rng, difficulty: float
) -> np.ndarray:
    """Return (K, channels): the key poses as this subject performs them in this clip."""
    angles = np.repeat(rest[None], len(keys), axis=0)
    last_trunk = CHANNEL["support"]  # channels up to it add to the posture, those of limbs replace it
    amplitude = subject.amplitude * rng.normal(1, 0.05)
    noise = difficulty * _per_channel(_KEY_NOISE)
    manner = rng.normal(0, 0.9 * noise)  # of this clip, the same at every key pose
    correlated = 0.8 * manner + 0.6 * mirror(manner)  # left and right deviate together
    manner = subject.style + np.where(np.arange(len(manner)) > last_trunk, correlated, manner)
    for row, (_, channels) in zip(angles, keys):
        for name, value in channels.items():
            column = CHANNEL[name]
            row[column] += amplitude * (value if column <= last_trunk else value - row[column])
        if channels:
            row += manner + rng.normal(0, 0.4 * noise)
    return angles


def interpolate(angles: np.ndarray, times: np.ndarray, frames: np.ndarray, lag: np.ndarray) -> np.ndarray:
    """Interpolate key poses (K, C) at ``times`` (K,) to (T, C) at ``frames`` (T,); times are in seconds.

    ``lag`` (C,) delays each channel, so that no two joints start at the same moment.
    """
    when = frames[:, None] - lag
    segment = np.clip(np.searchsorted(times, when, side="right") - 1, 0, len(times) - 2)
    span = np.maximum(times[segment + 1] - times[segment], 1e-6)
    share = minimum_jerk((when - times[segment]) / span)
    column = np.arange(angles.shape[1])
    return angles[segment, column] * (1 - share) + angles[segment + 1, column] * share


def add_incidental_motion(angles: np.ndarray, used: set[str], rng: Rng, difficulty: float) -> np.ndarray:
    """Add movements without meaning to (T, channels): sway, glances, a turn, gestures of the idle arm."""
    frames = len(angles)
    angles = angles + smooth_noise(rng, frames, difficulty * _per_channel(_SWAY))
    for name, degrees, probability in _GESTURES:
        if rng.random() < probability * difficulty:
            angles[:, CHANNEL[name]] += _sample_bump(frames, rng) * rng.normal(0, degrees)
    for side, word in (("l_", "left"), ("r_", "right")):
        if side + "flex" not in used and rng.random() < 0.6 * difficulty:
            weight = _sample_bump(frames, rng) * rng.uniform(0.4, 1.0)
            for name, value in pose(**{word: str(rng.choice(IDLE_ARMS))}).items():
                column = angles[:, CHANNEL[name]]
                column += weight * (value - column)
    return angles


def _sample_bump(frames: int, rng: Rng) -> np.ndarray:
    """Return (T,) that rises to 1 at a random time, stays there for a while, and falls again."""
    time = np.arange(frames)
    start, rise = rng.uniform(-0.2, 0.9) * frames, rng.uniform(8, 22)
    stay = rng.uniform(0, 0.5) * frames
    return minimum_jerk((time - start) / rise) * minimum_jerk((start + 2 * rise + stay - time) / rise)


def initial_misalignment(frames: int, rng: Rng, scale: float) -> np.ndarray:
    """Return (T, channels) to add: the trunk is turned and leans, and straightens within two thirds of a
    second.

    The effect is larger than the duration suggests: normalization aligns the first frame, so it rotates the
    whole clip.
    """
    fade = 1.0 - minimum_jerk(np.arange(frames) / rng.uniform(8, 20))
    angles = np.zeros((frames, len(CHANNELS)))
    for name, spread in _MISALIGNMENT.items():
        angles[:, CHANNEL[name]] = scale * rng.normal(0, spread) * fade
    return angles


def initial_turn(frames: int, rng: Rng, largest: float) -> np.ndarray:
    """Return (T,) degrees to add to the heading: the person turns to the final heading within a second."""
    fade = 1.0 - minimum_jerk(np.arange(frames) / rng.uniform(15, 30))
    return largest * rng.uniform(-1, 1) * fade


def mirror(angles: np.ndarray) -> np.ndarray:
    """Return the same movement (..., channels) with left and right exchanged."""
    swap = {"l_": "r_", "r_": "l_"}
    source = [CHANNEL[swap.get(name[:2], name[:2]) + name[2:]] for name in CHANNELS]
    sign = np.array([-1.0 if name in LATERAL else 1.0 for name in CHANNELS])
    return angles[..., source] * sign


def minimum_jerk(share: np.ndarray) -> np.ndarray:
    """Return the covered share (0 to 1) of a smooth movement at a share (0 to 1) of its duration."""
    share = np.clip(share, 0.0, 1.0)
    return share**3 * (10.0 - 15.0 * share + 6.0 * share**2)


def smooth_noise(rng: Rng, frames: int, scale: np.ndarray) -> np.ndarray:
    """Return (T, C) slow noise, a sum of sinusoids with the standard deviations ``scale`` (C,)."""
    hertz = np.exp(rng.uniform(np.log(0.08), np.log(0.7), (3, 1, len(scale))))
    phase = rng.uniform(0, 2 * np.pi, hertz.shape)
    seconds = np.arange(frames)[None, :, None] / FRAMES_PER_SECOND
    return scale * np.sqrt(2 / 3) * np.sin(2 * np.pi * hertz * seconds + phase).sum(0)


def _per_channel(table: dict[str, float]) -> np.ndarray:
    """Return (channels,) of a table whose keys name both sides at once; 0 for channels that it lacks."""
    return np.array(
        [table.get(name.removeprefix("l_").removeprefix("r_"), 0.0) for name in CHANNELS], dtype=float
    )
