"""The table of skeletons: joints, tree, normalization and drawing of each.

A store names its skeleton in ``store.json`` and a checkpoint carries its definition; both mean Kinect v2 if
they do not. A skeleton file has the fields of ``Skeleton`` as JSON (docs/data.md), with joints by name or by
number, from 0. Nothing in this module imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from utils.errors import UserError, parse_errors

from .datasets import NUM_COORDINATES, NUM_PEOPLE

MAX_JOINTS = 1000  # of a definition; more are a mistake

Pair = tuple[int, int]
Joints = int | tuple[int, ...]  # one joint, or a group that stands for its mean
Axis = tuple[Joints, Joints]


@dataclass(frozen=True)
class Skeleton:
    """The joints of a body, numbered from 0 in the order of the arrays.

    Two skeletons are equal if an encoder cannot distinguish them: name and drawing are not compared. An axis
    is a pair of joints, or of groups of joints, such as both hips, whose mean is meant. Raises ``ValueError``
    if fields contradict each other; the message names one.
    """

    name: str = field(compare=False)  # in stores, checkpoints and messages
    joints: tuple[str, ...]  # their names
    parents: tuple[int, ...]  # of each joint; the root is its own parent
    center: tuple[int, ...]  # of the first person: the joints whose mean is the origin of every frame
    z_bone: Axis | None = None  # (start, end), parallel to z in the first frame
    x_pair: Axis | None = None  # (left, right), parallel to x in the first frame
    dimensions: int = 3  # or 2 for image coordinates, which are scaled instead of rotated
    # of a 2D skeleton, the joints at both ends; the distance between their means is the unit of length
    torso: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    arms: tuple[Pair, ...] = field(default=(), compare=False)  # (left, right), from the shoulder outward
    legs: tuple[Pair, ...] = field(default=(), compare=False)  # the same: hip, knee, ankle
    head: tuple[Pair, ...] = field(default=(), compare=False)  # the same, for example eyes and ears
    drawn_bones: tuple[Pair, ...] = field(default=(), compare=False)  # by default, joints and parents

    def __post_init__(self) -> None:
        if problem := next(self.problems(), None):
            raise ValueError(problem)

    def __str__(self) -> str:
        return f"{self.name} ({self.num_joints} joints)"

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """The shape (V, 3, 2) of a frame of a store: joints, coordinates, people."""
        return self.num_joints, NUM_COORDINATES, NUM_PEOPLE

    @property
    def bones(self) -> tuple[Pair, ...]:
        """The edges (joint, parent) of the tree."""
        return tuple((joint, parent) for joint, parent in enumerate(self.parents) if joint != parent)

    @property
    def left_right(self) -> tuple[Pair, ...]:
        """All pairs (left, right) of joints that are mirror images of each other."""
        return (*self.arms, *self.legs, *self.head)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain data, which ``from_data`` reads."""
        return asdict(self)

    def to_data(self) -> str | dict[str, Any]:
        """Return the name of a skeleton of the table, or the definition of another one."""
        return self.name if self.name in SKELETONS else self.to_dict()

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the definition; the code after a problem relies on its absence."""
        names, count = (self.name, *self.joints), self.num_joints
        if not all(isinstance(name, str) and name.strip() and name.isprintable() for name in names):
            yield "'name', 'joints': a name is not a printable text"
        if not 2 <= len(set(self.joints)) == count <= MAX_JOINTS:
            yield f"'joints': give 2 to {MAX_JOINTS} different names"

        pairs = {name: getattr(self, name) for name in ("arms", "legs", "head", "drawn_bones")}
        axes = {name: axis for name in ("z_bone", "x_pair") if (axis := getattr(self, name)) is not None}
        for name, axis in axes.items():
            if not isinstance(axis, tuple) or len(axis) != 2 or () in axis:
                yield f"'{name}': {axis!r:.40} is not a pair of joints or of lists of joints"
        groups = {"parents": [self.parents], "center": [self.center], "torso": self.torso or (), **pairs}
        groups |= {name: [(*group_of(axis[0]), *group_of(axis[1]))] for name, axis in axes.items()}
        for name, group in [(name, group) for name, some in groups.items() for group in some]:
            if not isinstance(group, tuple) or not group or (name in pairs and len(group) != 2):
                yield f"'{name}': {group!r:.40} is not a {'pair' if name in pairs else 'list'} of joints"
            for joint in group:
                if type(joint) is not int or not 0 <= joint < count:
                    yield f"'{name}': {joint!r:.40} is not the name of a joint or a number below {count}"
            if name != "parents" and len(set(group)) < len(group):
                yield f"'{name}': a joint occurs twice"

        if len(self.parents) != count:
            yield f"'parents': {len(self.parents)} entries for {count} joints"
        ancestors = self.parents
        for _ in range(count.bit_length()):  # from generation 1 to 2, 4, 8, ...
            ancestors = tuple(ancestors[joint] for joint in ancestors)
        roots = {joint for joint, parent in enumerate(self.parents) if joint == parent}
        if len(roots) != 1 or set(ancestors) != roots:
            yield "'parents': one joint, the root, is its own parent; those of all others must lead to it"

        torso = self.torso or ()
        if self.dimensions not in (2, 3):
            yield f"'dimensions': {self.dimensions!r:.40} must be 2 or 3"
        if self.dimensions == 3 and torso:
            yield "'torso': only 2D skeletons are scaled; omit it"
        if self.dimensions == 2 and axes:
            yield f"'{next(iter(axes))}': 2D skeletons are not rotated; omit it"
        if self.dimensions == 2 and (len(torso) != 2 or set(torso[0]) & set(torso[1])):
            yield "'torso': a 2D skeleton needs two lists of different joints, its upper and its lower end"
        paired = [joint for pair in self.left_right for joint in pair]
        if len(set(paired)) < len(paired):
            yield "'arms', 'legs', 'head': a joint occurs twice"


def group_of(end: Joints) -> tuple[int, ...]:
    """Return the joints at an end of an axis."""
    return end if isinstance(end, tuple) else (end,)


LEG_WORDS, HEAD_WORDS = ("hip", "knee", "ankle", "foot", "heel", "toe"), ("eye", "ear", "mouth")


def described(
    name: str, joints: str, parents: str, center: tuple[int, ...], drawn: str = "", **others: Any
) -> Skeleton:
    """Return a skeleton whose arms, legs and head follow from the names of its joints.

    ``joints``, ``parents`` and the chains of drawn bones, such as 0-1-2, are separated by blanks; ``others``
    are further fields of ``Skeleton``.
    """
    names = tuple(joints.split())
    limbs: dict[str, Any] = {"arms": (), "legs": (), "head": ()}
    for left, joint in enumerate(names):
        if "left" in joint.lower():
            is_leg, is_head = (any(map(joint.lower().count, words)) for words in (LEG_WORDS, HEAD_WORDS))
            right = names.index(joint.replace("left", "right").replace("Left", "Right"))
            limbs["legs" if is_leg else "head" if is_head else "arms"] += ((left, right),)
    chains = [tuple(map(int, chain.split("-"))) for chain in drawn.split()]
    bones = tuple(bone for chain in chains for bone in pairwise(chain))
    return Skeleton(
        name, names, tuple(map(int, parents.split())), center, **limbs, drawn_bones=bones, **others
    )


# fmt: off
KINECT_V2 = described(
    "kinect_v2",
    "SpineBase SpineMid Neck Head ShoulderLeft ElbowLeft WristLeft HandLeft ShoulderRight ElbowRight "
    "WristRight HandRight HipLeft KneeLeft AnkleLeft FootLeft HipRight KneeRight AnkleRight FootRight "
    "SpineShoulder HandTipLeft ThumbLeft HandTipRight ThumbRight",
    # As in the official graph encoders, the tip of the hand is attached to the thumb, not to the hand.
    "1 20 20 2 20 4 5 6 20 8 9 10 0 12 13 14 0 16 17 18 20 22 7 24 11",
    center=(1,), z_bone=(0, 1), x_pair=(4, 8),
    drawn="0-1-20-2-3 20-4-5-6-7-21 7-22 20-8-9-10-11-23 11-24 0-12-13-14-15 0-16-17-18-19",
)
KINECT_V1 = described(
    "kinect_v1",
    "HipCenter Spine ShoulderCenter Head ShoulderLeft ElbowLeft WristLeft HandLeft ShoulderRight ElbowRight "
    "WristRight HandRight HipLeft KneeLeft AnkleLeft FootLeft HipRight KneeRight AnkleRight FootRight",
    "1 2 2 2 2 4 5 6 2 8 9 10 0 12 13 14 0 16 17 18",
    center=(1,), z_bone=(0, 1), x_pair=(4, 8),
)
COCO = described(
    "coco",
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow "
    "left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle",
    "0 0 0 1 2 0 0 5 6 7 8 5 6 11 12 13 14",
    center=(11, 12), dimensions=2, torso=((5, 6), (11, 12)),
    drawn="0-1 0-2 1-3 2-4 0-5 0-6 5-6 5-11 6-12 11-12 5-7-9 6-8-10 11-13-15 12-14-16",
)
COCO_3D = replace(COCO, name="coco_3d", dimensions=3, torso=None, z_bone=((11, 12), (5, 6)), x_pair=(5, 6))
MEDIAPIPE = described(
    "mediapipe",
    "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear "
    "right_ear mouth_left mouth_right left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_pinky right_pinky left_index right_index left_thumb right_thumb left_hip right_hip "
    "left_knee right_knee left_ankle right_ankle left_heel right_heel left_foot_index right_foot_index",
    "0 0 1 2 0 4 5 3 6 0 0 0 0 11 12 13 14 15 16 15 16 15 16 11 12 23 24 25 26 27 28 29 30",
    center=(23, 24), z_bone=((23, 24), (11, 12)), x_pair=(11, 12),
    drawn="0-2-7 0-5-8 9-10 11-12 11-23 12-24 23-24 11-13-15-17 15-19 15-21 12-14-16-18 16-20 16-22 "
    "23-25-27-29-31 24-26-28-30-32",
)
BODY_25 = described(
    "body_25",
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist mid_hip right_hip "
    "right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear left_big_toe "
    "left_small_toe left_heel right_big_toe right_small_toe right_heel",
    "1 1 1 2 3 1 5 6 1 8 9 10 8 12 13 0 0 15 16 14 19 14 11 22 11",
    center=(8,), dimensions=2, torso=((1,), (8,)),
)
OPENPOSE_18 = described(
    "openpose_18",
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip "
    "right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear",
    "1 1 1 2 3 1 5 6 1 8 9 1 11 12 0 0 14 15",
    center=(8, 11), dimensions=2, torso=((1,), (8, 11)),
)
AZURE_KINECT = described(
    "azure_kinect",
    "pelvis spine_navel spine_chest neck clavicle_left shoulder_left elbow_left wrist_left hand_left "
    "handtip_left thumb_left clavicle_right shoulder_right elbow_right wrist_right hand_right handtip_right "
    "thumb_right hip_left knee_left ankle_left foot_left hip_right knee_right ankle_right foot_right head "
    "nose eye_left ear_left eye_right ear_right",
    "0 0 1 2 2 4 5 6 7 8 7 2 11 12 13 14 15 14 0 18 19 20 0 22 23 24 3 26 26 26 26 26",
    center=(1,), z_bone=(0, 1), x_pair=(5, 12),
)
SMPL_22, SMPL_24 = (
    described(
        f"smpl_{count}",
        "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 "
        "left_foot right_foot neck left_collar right_collar head left_shoulder right_shoulder left_elbow "
        f"right_elbow left_wrist right_wrist{hands}",
        f"0 0 0 0 1 2 3 4 5 6 7 8 9 9 9 12 13 14 16 17 18 19{hand_parents}",
        center=(6,), z_bone=(0, 9), x_pair=(16, 17),
    )
    for count, hands, hand_parents in ((22, "", ""), (24, " left_hand right_hand", " 20 21"))
)
SBU = described(
    "sbu",
    "head neck torso left_shoulder left_elbow left_hand right_shoulder right_elbow right_hand left_hip "
    "left_knee left_foot right_hip right_knee right_foot",
    "1 2 2 1 3 4 1 6 7 2 9 10 2 12 13",
    center=(2,), z_bone=(2, 1), x_pair=(3, 6),
)
_ALL = (
    *(KINECT_V2, KINECT_V1, COCO, COCO_3D, MEDIAPIPE, BODY_25, OPENPOSE_18),
    *(AZURE_KINECT, SMPL_22, SMPL_24, SBU),
)
# fmt: on
SKELETONS = {skeleton.name: skeleton for skeleton in _ALL}


def skeleton_of(num_joints: int, dimensions: int) -> Skeleton:
    """Return the skeleton of the table with this number of joints; raises ``UserError`` if there is none."""
    for skeleton in SKELETONS.values():
        if (skeleton.num_joints, skeleton.dimensions) == (num_joints, dimensions):
            return skeleton
    raise UserError(
        f"clips of {num_joints} joints with {dimensions} coordinates, which no skeleton of "
        f"{', '.join(SKELETONS)} has; define it in a file and give it with --skeleton"
    )


def from_data(content: Any, source: str) -> Skeleton:
    """Read a skeleton from ``content``, a name of the table or a definition; messages name its ``source``.

    Raises ``UserError`` if the name is unknown, or the definition is invalid.
    """
    with parse_errors(f"{source}: the skeleton is not a valid definition or one of {', '.join(SKELETONS)}"):
        if isinstance(content, str):
            return SKELETONS[content]
        given = {key: value for key, value in content.items() if value is not None}
        plain = {key: given.pop(key) for key in ("name", "dimensions") if key in given}
        joints = tuple(given.pop("joints", ()))
        numbers = {name: number for number, name in enumerate(joints)}
        return Skeleton(joints=joints, **plain, **{key: numbered(given[key], numbers) for key in given})


def numbered(value: Any, numbers: Mapping[str, int]) -> Any:
    """Return nested lists of joints as tuples, with their names replaced by ``numbers``."""
    if isinstance(value, (list, tuple)):
        return tuple(numbered(item, numbers) for item in value)
    return numbers.get(value, value)


def load_skeleton(name_or_file: str) -> Skeleton:
    """Return a skeleton of the table by its name, or read one from a JSON file.

    Raises ``UserError`` if it is neither, or the file is invalid.
    """
    if name_or_file in SKELETONS:
        return SKELETONS[name_or_file]
    with parse_errors(f"{name_or_file} is neither a skeleton file nor one of {', '.join(SKELETONS)}"):
        content = json.loads(Path(name_or_file).read_text(encoding="utf-8-sig"))
    skeleton = from_data(content, name_or_file)
    if skeleton.name in SKELETONS:
        raise UserError(
            f"{name_or_file}: 'name': {skeleton.name} is reserved; choose another name, or give "
            f"--skeleton {skeleton.name}"
        )
    return skeleton
