"""Model the body: the 25 joints of Kinect v2, joint angles and forward kinematics.

Axes of the world, and of a body that faces a sensor: x to the person's right, y up, z away from the sensor.
The person looks along -z, and ``ShoulderLeft`` has a smaller x than ``ShoulderRight``. Lengths are in meters,
angles in degrees.
"""

from __future__ import annotations

import numpy as np

from facts.skeletons import KINECT_V2

JOINT = {name: index for index, name in enumerate(KINECT_V2.joints)}
NUM_JOINTS = len(JOINT)

# The offset of each joint from its parent, and the proportion of the person that scales it. In the rest pose,
# limbs are straight and feet point forward. Of the limbs, the right ones. Every joint is after its parent.
_BONES = (
    ("SpineMid", "SpineBase", "torso", (0, 0.26, 0)),
    ("SpineShoulder", "SpineMid", "torso", (0, 0.23, 0)),
    ("Neck", "SpineShoulder", "head", (0, 0.075, 0)),
    ("Head", "Neck", "head", (0, 0.14, -0.03)),
    ("Shoulder", "SpineShoulder", "shoulders", (0.175, -0.075, 0)),
    ("Elbow", "Shoulder", "arms", (0, -0.28, 0)),
    ("Wrist", "Elbow", "arms", (0, -0.245, 0)),
    ("Hand", "Wrist", "arms", (0, -0.075, 0)),
    ("HandTip", "Hand", "arms", (0, -0.085, 0)),
    ("Thumb", "Hand", "arms", (0, -0.03, -0.05)),
    ("Hip", "SpineBase", "hips", (0.085, -0.06, 0)),
    ("Knee", "Hip", "legs", (0, -0.42, 0)),
    ("Ankle", "Knee", "legs", (0, -0.39, 0)),
    ("Foot", "Ankle", "legs", (0, -0.055, -0.12)),
)
# and the standard deviation of each between people
PROPORTIONS = {"torso": 0.05, "arms": 0.05, "legs": 0.05, "shoulders": 0.08, "hips": 0.08, "head": 0.06}
SIDES = {"Left": -1.0, "Right": 1.0}
# Joint -> parent, and the offset (3,) from it in the rest pose; every joint after its parent.
Bones = dict[int, tuple[int, np.ndarray]]

# Channels of motion. Per side (l_, r_): `flex` swings the arm forward, `abd` away from the body, `twist`
# turns the forearm inward, `hip` swings the thigh forward. `bend` bends the spine forward; `turn`, `look` and
# `yaw` turn to the person's left; `side` and `tilt` lean to the left. `lift` raises the body off the floor
# (meters); `support` is 1 on the right foot, -1 on the left.
TRUNK = ("yaw", "bend", "side", "turn", "nod", "tilt", "look", "lift", "support")
ARM, LEG = ("flex", "abd", "twist", "elbow", "wrist"), ("hip", "hip_abd", "knee", "ankle")
CHANNELS = TRUNK + tuple(side + name for side in ("l_", "r_") for name in ARM + LEG)
CHANNEL = {name: index for index, name in enumerate(CHANNELS)}
LATERAL = ("yaw", "side", "turn", "tilt", "look", "support")  # change sign in a mirror image


def mirror(angles: np.ndarray) -> np.ndarray:
    """Return the same movement (..., channels) with left and right exchanged."""
    swap = {"l_": "r_", "r_": "l_"}
    source = [CHANNEL[swap.get(name[:2], name[:2]) + name[2:]] for name in CHANNELS]
    return angles[..., source] * [-1.0 if name in LATERAL else 1.0 for name in CHANNELS]


def bone_offsets(height: float = 1.0, **proportions: float) -> Bones:
    """Return the bones of a person; ``height`` and ``proportions`` are factors near 1."""
    bones: Bones = {}
    for joint, parent, proportion, offset in _BONES:
        scaled = height * proportions.get(proportion, 1.0) * np.array(offset)
        for side, sign in SIDES.items() if joint + "Left" in JOINT else [("", 1.0)]:
            above = parent + side if parent + side in JOINT else parent
            bones[JOINT[joint + side]] = JOINT[above], scaled * (sign, 1.0, 1.0)
    return bones


def rotation(**degrees: np.ndarray) -> np.ndarray:
    """Return (T, 3, 3) matrices, for columns: a product of rotations about x, y or z by (T,) degrees."""
    product = np.eye(3)
    for axis, angles in degrees.items():
        first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        matrices = np.tile(np.eye(3), (len(angles), 1, 1))
        matrices[:, first, first] = matrices[:, second, second] = np.cos(np.radians(angles))
        matrices[:, second, first] = np.sin(np.radians(angles))
        matrices[:, first, second] = -matrices[:, second, first]
        product = product @ matrices
    return product


def joint_rotations(angles: np.ndarray) -> dict[int, np.ndarray]:
    """Return for each joint that rotates (T, 3, 3) relative to its parent, from (T, channels)."""
    yaw, bend, side, turn, nod, tilt, look = angles.T[:7]
    # Pelvis, waist and chest bend together; the thighs do not follow the pelvis.
    half_spine = rotation(y=0.5 * turn, z=0.5 * side, x=-0.25 * bend)
    local = {
        "SpineBase": rotation(y=yaw, x=-0.5 * bend),
        "SpineMid": half_spine,
        "SpineShoulder": half_spine,
        "Neck": rotation(y=look, z=tilt, x=-nod),
    }
    for limbs, (name, sign) in zip(np.split(angles.T[len(TRUNK) :], 2), SIDES.items()):
        flex, abd, twist, elbow, wrist, hip, hip_abd, knee, ankle = limbs
        local |= {
            "Shoulder" + name: rotation(x=flex, z=sign * abd, y=sign * twist),
            "Elbow" + name: rotation(x=elbow),
            "Wrist" + name: rotation(x=wrist),
            "Hip" + name: rotation(x=hip + 0.5 * bend, z=sign * hip_abd),
            "Knee" + name: rotation(x=-knee),
            "Ankle" + name: rotation(x=knee - hip + ankle),  # the sole stays level unless the ankle is bent
        }
    return {JOINT[joint]: matrices for joint, matrices in local.items()}


def forward_kinematics(angles: np.ndarray, bones: Bones, place: np.ndarray) -> np.ndarray:
    """Return the joints (T, 25, 3) in world coordinates for angles (T, channels).

    The supporting foot is at ``place`` (3,), and the lower foot on the floor (y = 0) plus ``lift``.
    """
    local = joint_rotations(angles)
    positions = np.zeros((len(angles), NUM_JOINTS, 3))
    orientations = {0: local[0]}
    for joint, (parent, offset) in bones.items():
        positions[:, joint] = positions[:, parent] + orientations[parent] @ offset
        orientations[joint] = orientations[parent] @ local[joint] if joint in local else orientations[parent]
    left, right = (positions[:, JOINT["Ankle" + side]] for side in SIDES)
    weight = np.clip(0.5 + 0.5 * angles[:, CHANNEL["support"], None], 0.0, 1.0)
    anchor = weight * right + (1.0 - weight) * left
    feet = positions[:, [JOINT["FootLeft"], JOINT["FootRight"]], 1]
    anchor[:, 1] = feet.min(axis=1) - angles[:, CHANNEL["lift"]]
    return positions - anchor[:, None] + place
