"""A performance: one or two people carry out an action once, seen by nobody yet.

``perform`` turns an action's key poses into joint positions in the world. It adds what separates
two recordings of one class: the subject's body, tempo and style, the side of the body, waiting
before and after, sway, glances, gestures of the idle arm, a slow turn of the whole body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_gen.synthetic_actions import (
    ACTIONS, ARM_POSES, GAP, IDLE_ARMS, TOGETHER, Keys, Rng, pose)
from data_gen.synthetic_body import (
    CHANNEL, CHANNELS, LATERAL, bone_offsets, forward_kinematics)

FRAMES_PER_SECOND = 30.0
SHORTEST, LONGEST = 40, 110  # frames
QUICKNESS = 1.3  # the seconds in ``synthetic_actions`` are unhurried
MOST_WAITING = 1.2  # seconds before the action, and after it
PARTNERS = 20  # a partner is one of the first so many subjects
_SUBJECT_KEY = 7919  # keeps a subject's generator apart from those of clips

# degrees of nuisance at difficulty 1: how much one clip's key poses vary, and idle sway
_KEY_NOISE = {"flex": 8, "abd": 6, "twist": 6, "elbow": 8, "wrist": 8, "bend": 4, "side": 2,
              "turn": 5, "nod": 5, "tilt": 3, "look": 8, "hip": 3, "knee": 4, "hip_abd": 2}
_SWAY = {"flex": 5, "abd": 4, "twist": 6, "elbow": 6, "wrist": 6, "bend": 3, "side": 3,
         "turn": 6, "nod": 4, "tilt": 3, "look": 9, "hip": 2, "knee": 3, "hip_abd": 2,
         "yaw": 7, "support": 0.3, "shrug": 0.04}
_SETTLING = {"turn": 28, "side": 9, "bend": 12, "yaw": 15}  # degrees, in the first frame


def _per_channel(table: dict[str, float]) -> np.ndarray:
    """(channels,) from a table that names both sides at once; 0 where it is silent."""
    return np.array([table.get(name.removeprefix("l_").removeprefix("r_"), 0.0)
                     for name in CHANNELS], dtype=float)


@dataclass(frozen=True)
class Subject:
    """What stays the same whenever a person is recorded."""

    offsets: np.ndarray  # (25, 3) metres
    posture: np.ndarray  # (channels,) how the person stands
    style: np.ndarray  # (channels,) degrees added to every key pose
    tempo: float  # 1 is ordinary, 1.2 quick
    amplitude: float  # 1 is ordinary, below it restrained
    left_handed: bool
    arm_habits: np.ndarray  # chance of each of IDLE_ARMS


def draw_subject(seed: int, subject: int, difficulty: float = 1.0) -> Subject:
    """The person with this number: the same one in every clip of one seed."""
    rng = np.random.default_rng([seed, subject, _SUBJECT_KEY])
    bones = dict(zip(("torso", "arms", "legs", "shoulders", "hips", "head"),
                     1.0 + rng.normal(0, (0.05, 0.05, 0.05, 0.08, 0.08, 0.06)).clip(-0.18, 0.18)))
    offsets = bone_offsets(height=rng.uniform(0.88, 1.1), **bones)
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
        offsets, posture,
        style=rng.normal(0, 0.8 * difficulty * _per_channel(_KEY_NOISE)),
        tempo=float(np.exp(rng.normal(0, 0.18))),
        amplitude=float(np.clip(rng.normal(0.97, 0.07), 0.8, 1.12)),
        left_handed=bool(rng.random() < 0.1),
        arm_habits=rng.dirichlet((6.0, 1, 0.8, 0.8, 0.8, 0.5, 0.3)),
    )


def minimum_jerk(share: np.ndarray) -> np.ndarray:
    """0..1 of the time -> 0..1 of the way of a smooth movement from rest to rest."""
    share = np.clip(share, 0.0, 1.0)
    return share**3 * (10.0 - 15.0 * share + 6.0 * share**2)


def smooth_noise(rng: Rng, frames: int, scale: np.ndarray) -> np.ndarray:
    """(T, C) slow wandering around zero, standard deviation ``scale`` (C,): a few sinusoids."""
    hertz = np.exp(rng.uniform(np.log(0.08), np.log(0.7), (3, 1, len(scale))))
    phase = rng.uniform(0, 2 * np.pi, hertz.shape)
    seconds = np.arange(frames)[None, :, None] / FRAMES_PER_SECOND
    return scale * np.sqrt(2 / 3) * np.sin(2 * np.pi * hertz * seconds + phase).sum(0)


def key_angles(keys: Keys, rest: np.ndarray, subject: Subject, rng: Rng,
               difficulty: float) -> np.ndarray:
    """(K, channels): the key poses as this subject strikes them this time."""
    angles = np.repeat(rest[None], len(keys), axis=0)
    trunk = CHANNEL["support"]  # channels up to it add to the posture, those of limbs replace it
    amplitude = subject.amplitude * rng.normal(1, 0.05)
    noise = difficulty * _per_channel(_KEY_NOISE)
    manner = rng.normal(0, 0.9 * noise)  # of this clip, the same at every key
    alike = 0.8 * manner + 0.6 * mirrored(manner)  # left and right err together
    manner = subject.style + np.where(np.arange(len(manner)) > trunk, alike, manner)
    for row, (_, wanted) in zip(angles, keys):
        for name, value in wanted.items():
            column = CHANNEL[name]
            row[column] += amplitude * (value if column <= trunk else value - row[column])
        if wanted:
            row += manner + rng.normal(0, 0.4 * noise)
    return angles


def play(angles: np.ndarray, times: np.ndarray, frames: np.ndarray, lag: np.ndarray
         ) -> np.ndarray:
    """Key poses (K, C) at ``times`` (K,) -> (T, C) at ``frames`` (T,), in seconds.

    ``lag`` (C,) delays a channel: no two joints set off at the same moment.
    """
    when = frames[:, None] - lag
    segment = np.clip(np.searchsorted(times, when, side="right") - 1, 0, len(times) - 2)
    span = np.maximum(times[segment + 1] - times[segment], 1e-6)
    share = minimum_jerk((when - times[segment]) / span)
    column = np.arange(angles.shape[1])
    return angles[segment, column] * (1 - share) + angles[segment + 1, column] * share


def mirrored(angles: np.ndarray) -> np.ndarray:
    """The same movement (..., channels) with left and right exchanged."""
    swap = {"l_": "r_", "r_": "l_"}
    source = [CHANNEL[swap.get(name[:2], name[:2]) + name[2:]] for name in CHANNELS]
    sign = np.array([-1.0 if name in LATERAL else 1.0 for name in CHANNELS])
    return angles[..., source] * sign


def clip_times(keys: Keys, tempo: float, rng: Rng) -> tuple[np.ndarray, int]:
    """When each key pose is reached (K,) in seconds, and how many frames the clip has."""
    steps = np.array([seconds for seconds, _ in keys]) / (QUICKNESS * tempo)
    times = np.cumsum(steps * np.exp(rng.normal(0, 0.2, len(steps))))
    before, after = rng.uniform(0, MOST_WAITING, 2) * (rng.random(2) < 0.8)
    total = before + times[-1] + after
    longest = rng.uniform(0.8, 1.0) * LONGEST / FRAMES_PER_SECOND
    if total > longest:
        before, times, total = (value * longest / total for value in (before, times, total))
    if rng.random() < 0.3:  # the recording starts too late
        late = before + rng.uniform(0, 0.2) * times[-1]
        before, total = before - late, total - late
    shortest = SHORTEST + int(rng.integers(0, 12))
    return before + times, int(np.clip(total * FRAMES_PER_SECOND, shortest, LONGEST))


def resting_arms(subject: Subject, rng: Rng, difficulty: float) -> np.ndarray:
    """(channels,): how the subject stands in this clip before the action."""
    rest = subject.posture.copy()
    for side in ("l_", "r_"):
        name = str(rng.choice(IDLE_ARMS, p=subject.arm_habits))
        if name != "hang" and rng.random() < 0.7 * difficulty * (1.0 if side == "l_" else 0.5):
            for channel, value in pose(**{"left" if side == "l_" else "right": name}).items():
                rest[CHANNEL[channel]] = value
    widen = difficulty * rng.normal(0, (3.0, 4.0))
    rest[[CHANNEL["l_hip"], CHANNEL["r_hip"]]] += widen[1], -widen[1]  # one foot in front
    rest[[CHANNEL["l_hip_abd"], CHANNEL["r_hip_abd"]]] += widen[0]
    # a trunk that is not square to the legs: the normalisation, which looks at the shoulders of
    # the first frame only, then turns the whole clip
    for name, degrees in (("turn", 8), ("side", 3), ("bend", 4), ("look", 12)):
        rest[CHANNEL[name]] += difficulty * rng.normal(0, degrees)
    rest[CHANNEL["support"]] = np.clip(rng.normal(0, 0.5), -1, 1)
    return rest


def incidental(angles: np.ndarray, used: set[str], rng: Rng, difficulty: float) -> np.ndarray:
    """Movements that mean nothing, on top of (T, channels): glances, a turn, the idle arm."""
    frames = len(angles)
    time = np.arange(frames)

    def bump() -> np.ndarray:
        """(T,) rises to 1 somewhere in the clip, stays a while, and falls again."""
        start, rise = rng.uniform(-0.2, 0.9) * frames, rng.uniform(8, 22)
        stay = rng.uniform(0, 0.5) * frames
        return minimum_jerk((time - start) / rise) * minimum_jerk(
            (start + 2 * rise + stay - time) / rise)

    angles = angles + smooth_noise(rng, frames, difficulty * _per_channel(_SWAY))
    for name, degrees, chance in (("look", 32, 0.6), ("turn", 16, 0.5), ("nod", 14, 0.4),
                                  ("side", 9, 0.4), ("yaw", 32, 0.6)):
        if rng.random() < chance * difficulty:
            angles[:, CHANNEL[name]] += bump() * rng.normal(0, degrees)
    for side, word in (("l_", "left"), ("r_", "right")):
        if side + "flex" not in used and rng.random() < 0.6 * difficulty:
            weight = bump() * rng.uniform(0.4, 1.0)
            for name, value in pose(**{word: str(rng.choice(IDLE_ARMS))}).items():
                column = angles[:, CHANNEL[name]]
                column += weight * (value - column)
    return angles


def settling(frames: int, rng: Rng, degrees: float) -> np.ndarray:
    """(T, channels) to add: nobody is square and upright in the very first frames.

    The trunk is turned and leans, and comes to rest within two thirds of a second. It matters
    more than it lasts: the normalisation looks at the first frame, so the whole clip is turned.
    """
    fade = 1.0 - minimum_jerk(np.arange(frames) / rng.uniform(8, 20))
    angles = np.zeros((frames, len(CHANNELS)))
    for name, spread in _SETTLING.items():
        angles[:, CHANNEL[name]] = degrees * rng.normal(0, spread) * fade
    return angles


def move(keys: Keys, times: np.ndarray, frames: int, subject: Subject, rng: Rng,
         difficulty: float, settle: float) -> np.ndarray:
    """(T, channels): the subject's joint angles throughout the clip."""
    rest = resting_arms(subject, rng, difficulty)
    lag = rng.normal(0, 0.04 * difficulty, len(CHANNELS))
    lag[CHANNEL["lift"]] = 0.0
    seconds = np.arange(frames) / FRAMES_PER_SECOND
    angles = play(key_angles(keys, rest, subject, rng, difficulty), times, seconds, lag)
    used = {name for _, wanted in keys for name in wanted}
    angles = incidental(angles, used, rng, difficulty) + settling(frames, rng, settle)
    # three frames of smoothing: people do not stop dead at a key pose
    padded = np.concatenate([angles[:1], angles, angles[-1:]])
    angles = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    for side in ("l_", "r_"):
        for name, most in (("elbow", 152.0), ("knee", 140.0)):
            np.clip(angles[:, CHANNEL[side + name]], 0.0, most,
                    out=angles[:, CHANNEL[side + name]])
    return angles


@dataclass(frozen=True)
class BodyMotion:
    """One person's clip in the world: positions (T, 25, 3), orientations (T, 25, 3, 3)."""

    positions: np.ndarray
    orientations: np.ndarray


def _heading(repetition: int, two_people: bool, rng: Rng) -> float:
    """Degrees the performance is turned by; 0 faces the middle camera.

    As in NTU, a subject faces the left camera in one repetition and the right one in the next.
    Two people stand across the middle camera's view and change sides.
    """
    side = -1.0 if repetition % 2 else 1.0
    return side * (90.0 if two_people else 45.0) + rng.normal(0, 12)


def _cast(seed: int, subject: int, action: int, rng: Rng, difficulty: float) -> list[Subject]:
    """The subject, and a partner where the action needs one."""
    people = [draw_subject(seed, subject, difficulty)]
    if len(ACTIONS[action]) == 2:
        partner = (subject - 1 + int(rng.integers(1, PARTNERS))) % PARTNERS + 1
        people.append(draw_subject(seed, partner, difficulty))
    return people


def perform(seed: int, setup: int, subject: int, repetition: int, action: int,
            difficulty: float = 1.0, settle: float = 1.0) -> list[BodyMotion]:
    """What happens in front of the cameras, one entry per person.

    ``difficulty`` scales what varies without meaning, ``settle`` the unrest of the first frames.
    The floor is y = 0 and the performance is around x = z = 0. The same numbers, the same motion.
    """
    rng = np.random.default_rng([seed, setup, subject, repetition, action])
    people = _cast(seed, subject, action, rng, difficulty)
    scripts = [role(rng) for role in ACTIONS[action]]
    if action in TOGETHER:
        scripts[1] = scripts[0]
    tempo = people[0].tempo * float(np.exp(rng.normal(0, 0.15)))
    times, frames = clip_times(scripts[0], tempo, rng)
    heading = _heading(repetition, len(people) == 2, rng)
    centre = rng.normal(0, (0.25, 0.0, 0.25))
    gap = GAP.get(action, 0.0) * rng.normal(1, 0.05)
    motions = []
    for index, (person, keys) in enumerate(zip(people, scripts)):
        when = times if keys is scripts[0] else (
            times[0] + np.cumsum([seconds / (QUICKNESS * tempo) for seconds, _ in keys]))
        # now and then the other hand; hands are shaken with the right one
        other_hand = person.left_handed != (rng.random() < 0.2) and action not in TOGETHER
        angles = move(keys, when, frames, person, rng, difficulty, settle)
        if other_hand:
            angles = mirrored(angles)
        turned = heading + 180.0 * index
        angles[:, CHANNEL["yaw"]] += turned
        forward = -np.array([np.sin(np.radians(turned)), 0.0, np.cos(np.radians(turned))])
        place = np.tile(centre - 0.5 * gap * forward, (frames, 1))
        motions.append(BodyMotion(*forward_kinematics(angles, person.offsets, place)))
    return motions
