"""Model the body: the 25 joints of Kinect v2, joint angles and forward kinematics.

Axes of the world, and of a body that faces a sensor: x to the person's right, y up, z away from the sensor.
The person looks along -z, and ``ShoulderLeft`` has a smaller x than ``ShoulderRight``. The system is
right-handed. Lengths are in meters, angles in degrees. All functions are vectorized over the T frames of a
clip.
"""

from __future__ import annotations

import numpy as np

from facts.skeletons import KINECT_V2

JOINT = {name: index for index, name in enumerate(KINECT_V2.joints)}
NUM_JOINTS = len(JOINT)

_PARENT_NAMES = {
    "SpineMid": "SpineBase",
    "SpineShoulder": "SpineMid",
    "Neck": "SpineShoulder",
    "Head": "Neck",
}
for _side in ("Left", "Right"):
    for _chain in (
        ("SpineShoulder", "Shoulder", "Elbow", "Wrist", "Hand", "HandTip"),
        ("Hand", "Thumb"),
        ("SpineBase", "Hip", "Knee", "Ankle", "Foot"),
    ):
        _joints = [name if name.startswith("Spine") else name + _side for name in _chain]
        _PARENT_NAMES.update(zip(_joints[1:], _joints))
# child -> parent, every parent before its children
PARENTS: dict[int, int] = {JOINT[c]: JOINT[p] for c, p in _PARENT_NAMES.items()}

# Channels of motion. Per side (left, right): `flex` swings the arm forward, `abd` away from the body, `twist`
# turns the forearm inward, `hip` swings the thigh forward. `bend` bends the spine forward; `turn`, `look` and
# `yaw` turn to the person's left; `side` and `tilt` lean to the left.
TRUNK_ANGLES = ("yaw", "bend", "side", "turn", "nod", "tilt", "look")
ARM_ANGLES = ("flex", "abd", "twist", "elbow", "wrist", "shrug")
LEG_ANGLES = ("hip", "hip_abd", "knee", "ankle")
# `lift` raises the body off the floor (meters); `support` is 1 on the right foot, -1 on the left
CHANNELS = (
    *TRUNK_ANGLES,
    "lift",
    "support",
    *(f"l_{name}" for name in ARM_ANGLES + LEG_ANGLES),
    *(f"r_{name}" for name in ARM_ANGLES + LEG_ANGLES),
)
CHANNEL = {name: index for index, name in enumerate(CHANNELS)}
_SHOULDERS = {JOINT["ShoulderLeft"]: "l_", JOINT["ShoulderRight"]: "r_"}
LATERAL = ("yaw", "side", "turn", "tilt", "look", "support")  # change sign in a mirror image


def bone_offsets(
    height: float = 1.0,
    torso: float = 1.0,
    arms: float = 1.0,
    legs: float = 1.0,
    shoulders: float = 1.0,
    hips: float = 1.0,
    head: float = 1.0,
) -> np.ndarray:
    """Return (25, 3) meters: the offset of each joint from its parent in the rest pose.

    The arguments are factors near 1. The rest pose is upright with straight arms and legs and feet pointing
    forward.
    """
    offsets = np.zeros((NUM_JOINTS, 3))
    offsets[JOINT["SpineMid"]] = 0, 0.26 * torso, 0
    offsets[JOINT["SpineShoulder"]] = 0, 0.23 * torso, 0
    offsets[JOINT["Neck"]] = 0, 0.075 * head, 0
    offsets[JOINT["Head"]] = 0, 0.14 * head, -0.03 * head
    for side, sign in (("Left", -1.0), ("Right", 1.0)):

        def put(name: str, x: float, y: float, z: float, side: str = side, sign: float = sign) -> None:
            offsets[JOINT[name + side]] = sign * x, y, z

        put("Shoulder", 0.175 * shoulders, -0.075, 0.0)
        put("Elbow", 0, -0.28 * arms, 0)
        put("Wrist", 0, -0.245 * arms, 0)
        put("Hand", 0, -0.075 * arms, 0)
        put("HandTip", 0, -0.085 * arms, 0)
        put("Thumb", 0, -0.03 * arms, -0.05 * arms)
        put("Hip", 0.085 * hips, -0.06, 0)
        put("Knee", 0, -0.42 * legs, 0)
        put("Ankle", 0, -0.39 * legs, 0)
        put("Foot", 0, -0.055, -0.12 * legs)
    return height * offsets


def rotation(axis: str, degrees: np.ndarray) -> np.ndarray:
    """Return (T, 3, 3) matrices, acting on columns, for (T,) degrees about a coordinate axis."""
    radians = np.radians(degrees)
    cos, sin = np.cos(radians), np.sin(radians)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrices = np.zeros((len(radians), 3, 3))
    matrices[:, range(3), range(3)] = 1.0
    matrices[:, first, first] = matrices[:, second, second] = cos
    matrices[:, first, second], matrices[:, second, first] = -sin, sin
    return matrices


def joint_rotations(angles: np.ndarray) -> dict[int, np.ndarray]:
    """Return for each joint that rotates (T, 3, 3) relative to its parent, from (T, channels)."""

    def channel(name: str) -> np.ndarray:
        return angles[:, CHANNEL[name]]

    # Pelvis, waist and chest bend together; the thighs do not follow the pelvis.
    bend, side, turn = channel("bend"), channel("side"), channel("turn")
    pelvis = 0.5 * bend
    half_spine = rotation("y", 0.5 * turn) @ rotation("z", 0.5 * side) @ rotation("x", -0.25 * bend)
    local = {
        JOINT["SpineBase"]: rotation("y", channel("yaw")) @ rotation("x", -pelvis),
        JOINT["SpineMid"]: half_spine,
        JOINT["SpineShoulder"]: half_spine,
        JOINT["Neck"]: (
            rotation("y", channel("look")) @ rotation("z", channel("tilt")) @ rotation("x", -channel("nod"))
        ),
    }
    for side_name, prefix, sign in (("Left", "l_", -1.0), ("Right", "r_", 1.0)):
        flex, abd, twist, elbow, wrist, _ = (channel(prefix + name) for name in ARM_ANGLES)
        hip, hip_abd, knee, ankle = (channel(prefix + name) for name in LEG_ANGLES)
        local[JOINT["Shoulder" + side_name]] = (
            rotation("x", flex) @ rotation("z", sign * abd) @ rotation("y", sign * twist)
        )
        local[JOINT["Elbow" + side_name]] = rotation("x", elbow)
        local[JOINT["Wrist" + side_name]] = rotation("x", wrist)
        local[JOINT["Hip" + side_name]] = rotation("x", hip + pelvis) @ rotation("z", sign * hip_abd)
        local[JOINT["Knee" + side_name]] = rotation("x", -knee)
        # the sole stays level unless the ankle is bent
        local[JOINT["Ankle" + side_name]] = rotation("x", knee - hip + ankle)
    return local


def forward_kinematics(
    angles: np.ndarray, offsets: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute positions and orientations of all joints from joint angles.

    Args:
        angles: (T, channels).
        offsets: (25, 3), of ``bone_offsets``.
        place: (T, 3), the place of the supporting feet on the floor.

    Returns:
        positions (T, 25, 3) in world coordinates, with the lower foot on the floor (y = 0) plus ``lift``, and
        orientations (T, 25, 3, 3).
    """
    local = joint_rotations(angles)
    frames = len(angles)
    orientations = np.zeros((frames, NUM_JOINTS, 3, 3))
    positions = np.zeros((frames, NUM_JOINTS, 3))
    orientations[:, 0] = local[0]
    for joint, parent in PARENTS.items():
        offset = np.broadcast_to(offsets[joint], (frames, 3))
        if joint in _SHOULDERS:  # shrugging lifts a shoulder by a share of the length of its bone
            shrug = angles[:, CHANNEL[_SHOULDERS[joint] + "shrug"], None]
            offset = offset + shrug * np.linalg.norm(offsets[joint]) * np.array([0.0, 1.0, 0.0])
        positions[:, joint] = positions[:, parent] + np.einsum("tij,tj->ti", orientations[:, parent], offset)
        orientations[:, joint] = (
            orientations[:, parent] @ local[joint] if joint in local else orientations[:, parent]
        )
    return _on_the_floor(positions, angles) + place[:, None], orientations


def _on_the_floor(positions: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Translate (T, 25, 3) so that the supporting foot stays in place and on the floor."""
    weight = np.clip(0.5 + 0.5 * angles[:, CHANNEL["support"], None], 0.0, 1.0)
    anchor = weight * positions[:, JOINT["AnkleRight"]] + (1.0 - weight) * positions[:, JOINT["AnkleLeft"]]
    feet = positions[:, [JOINT["FootLeft"], JOINT["FootRight"]], 1]
    anchor[:, 1] = feet.min(axis=1) - angles[:, CHANNEL["lift"]]
    return positions - anchor[:, None]
