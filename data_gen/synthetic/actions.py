"""Define the synthetic actions: key poses in joint angles, and the seconds between them.

An action is a function of a random generator that returns a list of (seconds, pose): the time that a person
of average tempo needs to reach the pose, and the channels of ``body.py`` (in degrees) that the pose sets. Arm
and leg angles are absolute, trunk angles add to the person's posture, and channels that a pose does not set
keep their resting value. The first pose is the one at the start of the clip. All actions are written for a
right-handed person.

Classes share poses on purpose (hand to the head: drink, phone, salute, hat; a straight arm: throw, punch,
point; sitting down is standing up in reverse), so the motion is needed to distinguish them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_gen.synthetic.body import ARM_ANGLES

Pose = dict[str, float]
KeyPoses = list[tuple[float, Pose]]
Rng = np.random.Generator

# flex, abd, twist, elbow, wrist, computed by inverse kinematics for an average body
ARM_POSES: dict[str, tuple[float, ...]] = {
    "hang": (0, 8, 0, 14, 0),
    "cup": (11, 15, 19, 114, 0),  # hand in front of the chest
    "mouth": (61, 8, 31, 130, 10),
    "chin": (40, 5, 36, 139, 0),
    "ear": (89, 27, 15, 140, 0),
    "forehead": (129, 50, 59, 117, 0),
    "hat_front": (94, 26, 34, 107, 0),
    "hat": (143, 37, 51, 102, 15),
    "clap_in": (31, 13, 39, 96, 0),
    "clap_out": (20, 24, 10, 99, 0),
    "wave_in": (102, 46, 32, 103, 0),
    "wave_out": (86, 51, -18, 74, -10),
    "cheer_low": (65, 51, 7, 126, 0),
    "cheer": (166, 26, 69, 31, 0),
    "point": (82, -5, 0, 18, 0),
    "throw_back": (62, 91, -52, 108, -15),
    "throw_release": (100, 7, 47, 33, 0),
    "throw_end": (48, -15, 46, 21, 20),
    "guard": (-10, 19, 7, 148, 0),
    "punch": (83, -9, 18, 16, 0),
    "shield": (61, 14, 22, 121, 0),
    "shake": (32, 0, 26, 63, 0),
    "lap": (2, 14, 33, 78, 0),
    "swing_back": (-35, 12, 0, 20, 0),
    "swing_front": (70, 12, 0, 35, 0),
    # idle arms
    "belly": (-2, 22, 46, 98, 0),
    "hip": (-19, 49, 59, 87, 0),
    "pocket": (-20, 29, 37, 72, 0),
    "behind": (-23, 24, 86, 73, 0),
}
IDLE_ARMS = ("hang", "belly", "hip", "pocket", "behind", "cup", "chin")


def pose(right: str = "", left: str = "", **channels: float) -> Pose:
    """Return the channels of a named arm pose for either arm, and further channels by name."""
    angles: Pose = {}
    for prefix, name in (("r_", right), ("l_", left)):
        if name:
            angles.update({prefix + a: v for a, v in zip(ARM_ANGLES, ARM_POSES[name])})
    return angles | channels


def legs(hip: float, knee: float) -> Pose:
    """Return the channels of both legs, bent equally."""
    return {"r_hip": hip, "l_hip": hip, "r_knee": knee, "l_knee": knee}


REST: Pose = {}


def _shifted(angles: Pose, **shift: float) -> Pose:
    """Return the pose with some channels shifted by these degrees."""
    return angles | {name: angles.get(name, 0.0) + value for name, value in shift.items()}


def _return_to_rest(rng: Rng, seconds: float = 0.5) -> KeyPoses:
    """Return to rest; some clips end before."""
    return [(seconds * rng.uniform(1.0, 1.6), REST)] if rng.random() < 0.85 else []


def drink(rng: Rng) -> KeyPoses:
    keys: KeyPoses = [(0.0, REST)]
    if rng.random() < 0.5:  # a pause with the cup before drinking
        keys += [(0.5, pose("cup")), (rng.uniform(0.1, 0.6), pose("cup"))]
    for _ in range(rng.integers(1, 3)):
        back = rng.uniform(8, 25)
        keys += [
            (0.7, pose("mouth")),
            (rng.uniform(0.4, 1.0), _shifted(pose("mouth", nod=-back), r_flex=14, r_abd=12)),
            (0.3, pose("mouth")),
            (0.4, pose("cup")),
        ]
    return keys + _return_to_rest(rng)


def pick_up(rng: Rng) -> KeyPoses:
    squat = rng.uniform(0.0, 1.0)  # from a stoop with straight legs to a deep squat
    bow = 110 - 35 * squat
    reach = pose(
        bend=bow,
        nod=-15,
        r_flex=bow - 15 + 15 * squat,
        r_abd=0,
        r_twist=0,
        r_elbow=8,
        l_flex=0.8 * bow,  # the other arm hangs down as well
        **legs(20 + 85 * squat, 20 + 105 * squat),
    )
    keys: KeyPoses = [
        (0.0, REST),
        (0.8, reach),
        (rng.uniform(0.1, 0.4), _shifted(reach, r_elbow=12)),
        (0.8, pose("cup", bend=5) if rng.random() < 0.6 else REST),
    ]
    return keys + _return_to_rest(rng)


def throw(rng: Rng) -> KeyPoses:
    wind = rng.uniform(15, 40)
    keys: KeyPoses = [(0.0, REST)]
    if rng.random() < 0.5:
        keys += [(0.4, pose("cup")), (rng.uniform(0.1, 0.4), pose("cup"))]
    return (
        keys
        + [
            (0.6, pose("throw_back", turn=-wind, bend=-8, support=0.7)),
            (rng.uniform(0.05, 0.25), pose("throw_back", turn=-wind, bend=-8, support=0.6)),
            (0.22, pose("throw_release", turn=wind * 0.5, bend=10, support=-0.6)),
            (0.2, pose("throw_end", turn=wind * 0.8, bend=18, support=-0.7)),
        ]
        + _return_to_rest(rng, 0.6)
    )


def _seated(rng: Rng) -> Pose:
    """Return a seated pose with the arms in the lap or at rest."""
    arms = pose("lap", "lap") if rng.random() < 0.6 else REST
    return arms | {"bend": rng.uniform(-4, 10)} | legs(86, 88)


def _half_seated(rng: Rng, seated: Pose) -> Pose:
    return seated | {"bend": rng.uniform(28, 48)} | legs(62, 72)


def sit_down(rng: Rng) -> KeyPoses:
    seated = _seated(rng)
    keys: KeyPoses = [(0.0, REST)]
    if rng.random() < 0.3:  # a look at the chair
        keys += [(0.4, pose(look=50, turn=15))]
    return keys + [(0.6, _half_seated(rng, seated)), (0.5, seated), (rng.uniform(0.1, 0.8), seated)]


def stand_up(rng: Rng) -> KeyPoses:
    seated = _seated(rng)
    return [(0.0, seated), (0.5, _half_seated(rng, seated)), (0.6, REST), (rng.uniform(0.1, 0.6), REST)]


def clap(rng: Rng) -> KeyPoses:
    height = rng.uniform(-12, 35)  # from in front of the belly to in front of the face
    wide = rng.uniform(0.6, 1.2)
    together = _shifted(pose("clap_in", "clap_in"), r_flex=height, l_flex=height)
    apart = _shifted(together, r_twist=-29 * wide, l_twist=-29 * wide, r_abd=11 * wide, l_abd=11 * wide)
    beat = rng.uniform(0.12, 0.22)
    keys: KeyPoses = [(0.0, REST), (0.6, apart)]
    for _ in range(rng.integers(3, 8)):
        keys += [(beat, together), (beat, apart)]
    return keys + _return_to_rest(rng)


def put_on_hat(rng: Rng) -> KeyPoses:
    both = rng.random() < 0.55

    def arm(name: str, **channels: float) -> Pose:
        return pose(name, name if both else "", **channels)

    keys: KeyPoses = [(0.0, REST)]
    if rng.random() < 0.6:
        keys += [(0.5, arm("cup")), (rng.uniform(0.05, 0.5), arm("cup"))]
    keys += [(0.6, arm("hat_front")), (0.35, arm("hat", nod=10)), (rng.uniform(0.15, 0.7), arm("hat", nod=6))]
    return keys + _return_to_rest(rng, 0.6)


def cheer(rng: Rng) -> KeyPoses:
    both = rng.random() < 0.7

    def arm(name: str, **channels: float) -> Pose:
        return pose(name, name if both else "", **channels)

    keys: KeyPoses = [(0.0, REST), (0.5, arm("cheer_low"))]
    beat = rng.uniform(0.22, 0.4)
    for _ in range(rng.integers(1, 4)):
        keys += [(beat, arm("cheer", nod=-8)), (beat, arm("cheer_low"))]
    return keys + _return_to_rest(rng)


def wave(rng: Rng) -> KeyPoses:
    beat = rng.uniform(0.2, 0.36)
    height = rng.uniform(-35, 20)  # from a hand at shoulder height to one above the head
    wide = rng.uniform(0.5, 1.1)
    inside = _shifted(pose("wave_in"), r_flex=height)
    outside = {
        name: value + wide * (_shifted(pose("wave_out"), r_flex=height)[name] - value)
        for name, value in inside.items()
    }
    keys: KeyPoses = [(0.0, REST), (0.6, outside)]
    for _ in range(rng.integers(2, 6)):
        keys += [(beat, inside), (beat, outside)]
    return keys + _return_to_rest(rng)


def kick(rng: Rng) -> KeyPoses:
    high = rng.uniform(40, 80)
    back = pose(
        bend=5, support=-1, r_hip=-25, r_knee=rng.uniform(35, 75), l_knee=12, l_hip=8, r_flex=25, l_flex=-15
    )
    hit = pose(
        bend=-8,
        support=-1,
        r_hip=high,
        r_knee=rng.uniform(5, 25),
        l_knee=10,
        l_hip=5,
        r_flex=-20,
        l_flex=30,
        r_ankle=-20,
    )
    keys: KeyPoses = [(0.0, REST)]
    for _ in range(1 + (rng.random() < 0.25)):
        keys += [
            (0.45, back),
            (0.25, hit),
            (rng.uniform(0.03, 0.2), hit),
            (0.35, pose(support=-0.8, r_hip=15, r_knee=30)),
        ]
    return keys + [(0.3, REST)]


def jump(rng: Rng) -> KeyPoses:
    arms_up = rng.uniform(0.2, 1.0)
    crouch = pose("swing_back", "swing_back", bend=28, **legs(42, 72))
    high = rng.uniform(0.12, 0.35)
    keys: KeyPoses = [(0.0, REST)]
    for _ in range(rng.integers(1, 4)):
        top = pose("swing_front", "swing_front", lift=high, r_ankle=-35, l_ankle=-35, **legs(4, 8)) | {
            "r_flex": 120 * arms_up,
            "l_flex": 120 * arms_up,
        }
        keys += [
            (0.45, crouch),
            (0.15, top | {"lift": 0.0}),
            (0.2, top),
            (0.2, top | {"lift": 0.0}),
            (0.15, crouch | {"bend": 18.0}),
        ]
    return keys + [(0.4, REST)]


def phone_call(rng: Rng) -> KeyPoses:
    lean = rng.uniform(-14, 2)
    keys: KeyPoses = [(0.0, REST)]
    if rng.random() < 0.5:  # out of the pocket, then a look at the screen
        keys += [
            (0.35, pose("pocket")),
            (0.5, pose("cup", nod=18)),
            (rng.uniform(0.1, 0.5), pose("cup", nod=18)),
        ]
    keys += [(0.6, pose("ear", tilt=lean)), (rng.uniform(0.6, 1.6), pose("ear", tilt=lean))]
    return keys + (_return_to_rest(rng) if rng.random() < 0.6 else [])


def point(rng: Rng) -> KeyPoses:
    aim = _shifted(
        pose("point", look=rng.uniform(-15, 10)), r_flex=rng.uniform(-22, 25), r_abd=rng.uniform(-10, 40)
    )
    keys: KeyPoses = [(0.0, REST)]
    if rng.random() < 0.3:  # the elbow bends first
        keys += [(0.35, pose("cup"))]
    return keys + [(0.5, aim), (rng.uniform(0.4, 1.2), aim)] + _return_to_rest(rng)


def salute(rng: Rng) -> KeyPoses:
    hold = _shifted(pose("forehead", bend=-2), r_flex=rng.uniform(-15, 8))
    return [(0.0, REST), (0.45, hold), (rng.uniform(0.4, 1.3), hold)] + _return_to_rest(rng, 0.4)


def punch(rng: Rng) -> KeyPoses:
    keys: KeyPoses = [(0.0, REST)]
    for _ in range(rng.integers(1, 3)):
        keys += [
            (0.45, pose("guard", turn=-22, support=0.4)),
            (0.18, pose("punch", turn=22, bend=10, support=-0.5)),
            (rng.uniform(0.03, 0.15), pose("punch", turn=22, bend=10, support=-0.5)),
            (0.3, pose("guard", turn=-5)),
        ]
    return keys + _return_to_rest(rng)


def is_punched(rng: Rng) -> KeyPoses:
    """React as the other person, shortly after the first blow."""
    shield = pose("shield", "shield" if rng.random() < 0.5 else "")
    hit = (shield if rng.random() < 0.5 else REST) | {"bend": -16.0, "nod": -18.0, "side": 6.0}
    return [(0.0, REST), (0.5, REST), (0.22, hit), (rng.uniform(0.1, 0.5), hit), (0.6, REST)]


def shake_hands(rng: Rng) -> KeyPoses:
    beat = rng.uniform(0.13, 0.24)
    hold = pose("shake", bend=rng.uniform(0, 12))
    keys: KeyPoses = [(0.0, REST), (0.65, hold)]
    for _ in range(rng.integers(2, 5)):
        keys += [(beat, _shifted(hold, r_flex=6, r_elbow=10)), (beat, hold)]
    return keys + [(rng.uniform(0.05, 0.3), hold)] + _return_to_rest(rng)


# NTU class number (from 1) -> what each person does
ACTIONS: dict[int, tuple[Callable[[Rng], KeyPoses], ...]] = {
    1: (drink,),
    6: (pick_up,),
    7: (throw,),
    8: (sit_down,),
    9: (stand_up,),
    10: (clap,),
    20: (put_on_hat,),
    22: (cheer,),
    23: (wave,),
    24: (kick,),
    27: (jump,),
    28: (phone_call,),
    31: (point,),
    38: (salute,),
    50: (punch, is_punched),
    58: (shake_hands, shake_hands),
}
TOGETHER = (58,)  # both people keep the same beat and use the right hand
GAP = {50: 0.72, 58: 0.92}  # meters between two people
