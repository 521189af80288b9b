"""Define the synthetic actions: key poses in joint angles, and the seconds between them.

A script is a text of steps, separated by commas. A step is the seconds that a person of average tempo needs
to reach a pose, and the pose: the name of an arm pose, and channels of ``body.py`` in degrees. ``hold`` keeps
the pose before, ``rest`` is the posture of the person. ``hip`` means both hips, ``r_hip`` the right one.
Arm and leg angles are absolute, trunk angles add to the posture, other channels keep their resting value.
Steps between ``maybe:`` and the next ``;`` or line occur in half of the clips, those after ``3~7:`` are
repeated. ``low~high`` is a range: all angles of a clip lie at the same share of it, durations do not.

Classes share poses on purpose (hand to the head: drink, phone, salute, hat; a straight arm: throw, punch,
point; sitting down is standing up in reverse), so the motion is needed to distinguish them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from data_gen.synthetic.body import ARM, CHANNELS

Pose = dict[str, float]
KeyPoses = list[tuple[float, Pose]]
Rng = np.random.Generator

# flex, abd, twist, elbow, wrist, computed by inverse kinematics for an average body
ARM_POSES = {
    "hang": (0, 8, 0, 14, 0),
    "cup": (11, 15, 19, 114, 0),  # hand in front of the chest
    "mouth": (61, 8, 31, 130, 10),
    "chin": (40, 5, 36, 139, 0),
    "ear": (89, 27, 15, 140, 0),
    "forehead": (129, 50, 59, 117, 0),
    "hat_front": (94, 26, 34, 107, 0),
    "hat": (143, 37, 51, 102, 15),
    "clap": (31, 13, 39, 96, 0),
    "wave_in": (102, 46, 32, 103, 0),
    "wave_out": (89, 50, -8, 80, -8),
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
    "belly": (-2, 22, 46, 98, 0),
    "hip": (-19, 49, 59, 87, 0),
    "pocket": (-20, 29, 37, 72, 0),
    "behind": (-23, 24, 86, 73, 0),
}
IDLE_ARMS = ("hang", "belly", "hip", "pocket", "behind", "cup", "chin")

_TEXT = """
drink
    maybe: 0.5 cup, 0.1~0.6 hold
    1~2: 0.7 mouth, 0.4~1 hold nod=-8~-25 r_flex=75 r_abd=20, 0.3 mouth, 0.4 cup; 0.5~0.8 rest
pick up
    0.8 bend=110~75 nod=-15 hip=20~105 knee=20~125 r_flex=95~75 r_abd=0 r_twist=0 r_elbow=8 l_flex=88~60
    0.1~0.4 hold r_elbow=20, 0.8 cup bend=5, 0.5~0.8 rest
throw
    maybe: 0.4 cup, 0.1~0.4 hold
    0.6 throw_back turn=-15~-40 bend=-8 support=0.7, 0.05~0.25 hold
    0.22 throw_release turn=7~20 bend=10 support=-0.6, 0.2 throw_end turn=12~32 bend=18, 0.6~1 rest
sit down
    0.6 lap hip=62 knee=72 bend=28~48, 0.5 lap hip=86 knee=88 bend=-4~10, 0.1~0.8 hold
stand up
    0 lap hip=86 knee=88 bend=-4~10, 0.5 lap hip=62 knee=72 bend=28~48, 0.6 rest, 0.1~0.6 rest
clap
    0.6 clap flex=19~66 twist=22~4 abd=20~26
    3~7: 0.12~0.22 clap flex=19~66, 0.12~0.22 clap flex=19~66 twist=22~4 abd=20~26; 0.5~0.8 rest
put on a hat
    maybe: 0.5 cup, 0.05~0.5 hold
    0.6 hat_front, 0.35 hat nod=10, 0.15~0.7 hat nod=6; 0.6~1 rest
cheer
    0.5 cheer_low
    1~3: 0.22~0.4 cheer nod=-8, 0.22~0.4 cheer_low; 0.5~0.8 rest
wave
    0.6 wave_out r_flex=59~104
    2~5: 0.2~0.36 wave_in r_flex=67~122, 0.2~0.36 wave_out r_flex=59~104; 0.5~0.8 rest
kick
    0.45 bend=5 support=-1 r_hip=-25 r_knee=35~75 l_knee=12 l_hip=8 r_flex=25 l_flex=-15
    0.25 bend=-8 support=-1 r_hip=40~80 r_knee=25~5 r_ankle=-20 l_knee=10 l_hip=5 r_flex=-20 l_flex=30
    0.03~0.2 hold, 0.35 support=-0.8 r_hip=15 r_knee=30; 0.3 rest
jump
    1~3: 0.45 swing_back bend=28 hip=42 knee=72, 0.15 swing_front flex=24~120 hip=4 knee=8 ankle=-35, \
0.2 hold lift=0.12~0.35, 0.2 hold lift=0, 0.15 swing_back bend=18 hip=42 knee=72; 0.4 rest
phone
    maybe: 0.35 pocket, 0.5 cup nod=18, 0.1~0.5 hold
    0.6 ear tilt=2~-14, 0.6~1.6 hold; maybe: 0.5~0.8 rest
point
    0.5 point look=-15~10 r_flex=60~107 r_abd=35~-15, 0.4~1.2 hold; 0.5~0.8 rest
salute
    0.45 forehead bend=-2 r_flex=114~137, 0.4~1.3 hold; 0.4~0.7 rest
punch
    1~2: 0.45 guard turn=-22 support=0.4, 0.18 punch turn=22 bend=10 support=-0.5, 0.03~0.15 hold, \
0.3 guard turn=-5; 0.5~0.8 rest
is punched
    0.5 rest, 0.22 shield bend=-16 nod=-18 side=6, 0.1~0.5 hold, 0.6 rest
shake hands
    0.65 shake bend=0~12
    2~4: 0.13~0.24 shake r_flex=38 r_elbow=73 bend=0~12, 0.13~0.24 shake bend=0~12; 0.5~0.8 rest
"""
_BLOCKS = (re.split("[\n;]", block) for block in re.split(r"\n(?=\w)", _TEXT.strip()))
SCRIPTS = {name: parts for name, *parts in _BLOCKS}


class Action(NamedTuple):
    """A class: its number in PKU-MMD, and the scripts of one or two people.

    ``both`` is the probability that the left arm does the same as the right one. Two people stand ``gap``
    meters apart; if their scripts are the same, they move in unison and use the right hand.
    """

    pku_class: int
    scripts: tuple[str, ...]
    both: float = 0.0
    gap: float = 0.0


ACTIONS = {  # by NTU class number, from 1
    1: Action(8, ("drink",)),
    6: Action(22, ("pick up",)),
    7: Action(41, ("throw",)),
    8: Action(33, ("sit down",), both=0.6),
    9: Action(34, ("stand up",), both=0.6),
    10: Action(6, ("clap",), both=1),
    20: Action(28, ("put on a hat",), both=0.55),
    22: Action(5, ("cheer",), both=0.7),
    23: Action(13, ("wave",)),
    24: Action(19, ("kick",)),
    27: Action(17, ("jump",), both=1),
    28: Action(20, ("phone",)),
    31: Action(25, ("point",)),
    38: Action(32, ("salute",)),
    50: Action(26, ("punch", "is punched"), gap=0.72),
    58: Action(14, ("shake hands", "shake hands"), gap=0.92),
}


def arm(side: str, name: str) -> Pose:
    """Return the channels of the right (``r_``) or left (``l_``) arm in a pose of the table."""
    return {side + angle: value for angle, value in zip(ARM, ARM_POSES[name])}


def sample_script(name: str, both: float, rng: Rng) -> KeyPoses:
    """Return the key poses of one clip; ``both`` is the probability that the left arm does the same."""
    share, sides = rng.random(), ("r_", "l_") if rng.random() < both else ("r_",)
    keys: KeyPoses = [(0.0, {})]
    for part in SCRIPTS[name]:
        prefix, _, steps = part.strip().rpartition(":")
        of_part: KeyPoses = []
        for seconds, *words in map(str.split, steps.split(",")):
            pose = _pose(words, sides, share)
            held = (of_part or keys)[-1][1] if "hold" in words else {}
            of_part.append((_number(seconds, rng.random()), held | pose))
        low, _, high = (prefix if prefix != "maybe" else "0~1").partition("~")
        keys += of_part * (int(rng.integers(int(low), int(high), endpoint=True)) if prefix else 1)
    return keys if keys[1][0] > 0.0 else keys[1:]


def _pose(words: list[str], sides: tuple[str, ...], share: float) -> Pose:
    pose: Pose = {}
    for word in words:
        name, is_channel, value = word.partition("=")
        if is_channel:
            pose |= {channel: _number(value, share) for channel in CHANNELS if name in (channel, channel[2:])}
        elif name in ARM_POSES:
            pose |= {channel: angle for side in sides for channel, angle in arm(side, name).items()}
    return pose


def _number(text: str, share: float) -> float:
    """Return a number, or the one at a share of a range."""
    low, _, high = text.partition("~")
    return float(low) + share * (float(high or low) - float(low))
