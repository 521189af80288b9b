"""The table of skeletons: joints, tree, normalization and drawing of each.

Everything that depends on the joints of a clip is defined here: the size of a frame, the edges of the
graph, the axes of the normalization, the limbs of a picture. A store names its skeleton in ``store.json``
and a checkpoint carries its definition; both mean Kinect v2 if they do not. Nothing in this module imports
torch.

A skeleton file has the fields of ``Skeleton`` as JSON (docs/data.md). Joints are given by name or by
number, from 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from utils.errors import UserError, first_line

from .datasets import NUM_COORDINATES, NUM_PEOPLE

MAX_JOINTS = 1000  # of a definition; more are a mistake

Pair = tuple[int, int]


@dataclass(frozen=True)
class Skeleton:
    """The joints of a body, numbered from 0 in the order of the arrays.

    Two skeletons are equal if an encoder cannot distinguish them: name and drawing are not compared.

    Attributes:
        name: the name in stores, checkpoints and messages.
        joints: the names of the joints.
        parents: the parent of each joint; the root is its own parent.
        center: the joints of the first person whose mean is the origin of every frame.
        z_bone: the bone (start, end) that is parallel to z in the first frame, if any.
        x_pair: the pair (left, right) of joints that is parallel to x in the first frame, if any.
        dimensions: 3, or 2 for image coordinates, which are scaled instead of rotated.
        torso: of a 2D skeleton, the joints at its upper and at its lower end, such as shoulders and hips.
            The distance between their means is the unit of length.
        arms: pairs (left, right) of joints of the arms, from the shoulder outward.
        legs: the same for the legs: hip, knee, ankle.
        head: the same for the head, for example eyes and ears.
        drawn_bones: the lines of a picture; by default each joint is connected to its parent.

    Raises:
        ValueError: fields contradict each other; the message names one.
    """

    name: str = field(compare=False)
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    center: tuple[int, ...]
    z_bone: Pair | None = None
    x_pair: Pair | None = None
    dimensions: int = 3
    torso: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    arms: tuple[Pair, ...] = field(default=(), compare=False)
    legs: tuple[Pair, ...] = field(default=(), compare=False)
    head: tuple[Pair, ...] = field(default=(), compare=False)
    drawn_bones: tuple[Pair, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        check_tree(self)
        check_normalization(self)
        paired = [joint for pair in self.left_right for joint in pair]
        if len(set(paired)) < len(paired):
            raise ValueError("'arms', 'legs', 'head': a joint occurs twice")

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


def check_tree(skeleton: Skeleton) -> None:
    """Raise ``ValueError`` unless the parents of all joints lead to one root."""
    parents, count = skeleton.parents, skeleton.num_joints
    if len(parents) != count:
        raise ValueError(f"'parents': {len(parents)} entries for {count} joints")
    roots = [joint for joint, parent in enumerate(parents) if joint == parent]
    if len(roots) != 1:
        raise ValueError(f"'parents': {len(roots)} joints are their own parent, but a skeleton has one root")
    for joint in range(count):
        ancestor = joint
        for _ in range(count):
            ancestor = parents[ancestor]
        if ancestor != roots[0]:
            raise ValueError(f"'parents': the parents of {skeleton.joints[joint]} do not lead to the root")


def check_normalization(skeleton: Skeleton) -> None:
    """Raise ``ValueError`` if the fields of the normalization do not match the number of dimensions."""
    if not skeleton.center:
        raise ValueError("'center': give at least one joint")
    if skeleton.dimensions == 3:
        if skeleton.torso is not None:
            raise ValueError("'torso': only 2D skeletons are scaled; omit it")
    elif skeleton.dimensions == 2:
        for name in ("z_bone", "x_pair"):
            if getattr(skeleton, name) is not None:
                raise ValueError(f"'{name}': 2D skeletons are not rotated; omit it")
        if skeleton.torso is None:
            raise ValueError("'torso': a 2D skeleton needs the joints at its upper and at its lower end")
        if not all(skeleton.torso) or set(skeleton.torso[0]) & set(skeleton.torso[1]):
            raise ValueError("'torso': give two lists of different joints, upper and lower end")
    else:
        raise ValueError(f"'dimensions': {skeleton.dimensions!r} must be 2 or 3")


# fmt: off
KINECT_V2 = Skeleton(
    name="kinect_v2",
    joints=(
        "SpineBase", "SpineMid", "Neck", "Head",
        "ShoulderLeft", "ElbowLeft", "WristLeft", "HandLeft",
        "ShoulderRight", "ElbowRight", "WristRight", "HandRight",
        "HipLeft", "KneeLeft", "AnkleLeft", "FootLeft",
        "HipRight", "KneeRight", "AnkleRight", "FootRight",
        "SpineShoulder", "HandTipLeft", "ThumbLeft", "HandTipRight", "ThumbRight",
    ),
    # As in the official graph encoders, the tip of the hand is attached to the thumb, not to the hand.
    parents=(1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11),
    center=(1,),
    z_bone=(0, 1),
    x_pair=(4, 8),
    arms=((4, 8), (5, 9), (6, 10), (7, 11), (21, 23), (22, 24)),
    legs=((12, 16), (13, 17), (14, 18), (15, 19)),
    drawn_bones=(
        (0, 1), (1, 20), (20, 2), (2, 3),
        (20, 4), (4, 5), (5, 6), (6, 7), (7, 21), (7, 22),
        (20, 8), (8, 9), (9, 10), (10, 11), (11, 23), (11, 24),
        (0, 12), (12, 13), (13, 14), (14, 15), (0, 16), (16, 17), (17, 18), (18, 19),
    ),
)

KINECT_V1 = Skeleton(
    name="kinect_v1",
    joints=(
        "HipCenter", "Spine", "ShoulderCenter", "Head",
        "ShoulderLeft", "ElbowLeft", "WristLeft", "HandLeft",
        "ShoulderRight", "ElbowRight", "WristRight", "HandRight",
        "HipLeft", "KneeLeft", "AnkleLeft", "FootLeft",
        "HipRight", "KneeRight", "AnkleRight", "FootRight",
    ),
    parents=(1, 2, 2, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18),
    center=(1,),
    z_bone=(0, 1),
    x_pair=(4, 8),
    arms=((4, 8), (5, 9), (6, 10), (7, 11)),
    legs=((12, 16), (13, 17), (14, 18), (15, 19)),
)

COCO = Skeleton(
    name="coco",
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    parents=(0, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
    center=(11, 12),
    dimensions=2,
    torso=((5, 6), (11, 12)),
    arms=((5, 6), (7, 8), (9, 10)),
    legs=((11, 12), (13, 14), (15, 16)),
    head=((1, 2), (3, 4)),
    drawn_bones=(
        (0, 1), (0, 2), (1, 3), (2, 4), (0, 5), (0, 6), (5, 6), (5, 11), (6, 12), (11, 12),
        (5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16),
    ),
)
# fmt: on

SKELETONS = {skeleton.name: skeleton for skeleton in (KINECT_V2, KINECT_V1, COCO)}


def from_data(content: object, source: str) -> Skeleton:
    """Read a skeleton from the content of a file, a store or a checkpoint.

    Args:
        content: the name of a skeleton of the table, or a definition.
        source: where it comes from, for messages.

    Raises:
        UserError: the name is unknown, or the definition is invalid.
    """
    if isinstance(content, str) and content in SKELETONS:
        return SKELETONS[content]
    try:
        return parse_definition(content)
    except ValueError as error:
        raise UserError(f"{source}: the skeleton is invalid: {error}") from error


def load_skeleton(name_or_file: str) -> Skeleton:
    """Return a skeleton of the table by its name, or read one from a JSON file.

    Raises:
        UserError: it is neither, or the file is invalid.
    """
    if name_or_file in SKELETONS:
        return SKELETONS[name_or_file]
    try:
        content = json.loads(Path(name_or_file).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"{name_or_file} cannot be read ({error.strerror}): give a skeleton file or one of "
            f"{', '.join(SKELETONS)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name_or_file} is not a JSON file ({first_line(error)})") from error
    skeleton = from_data(content, name_or_file)
    if skeleton.name in SKELETONS:
        raise UserError(
            f"{name_or_file}: 'name': {skeleton.name} is reserved; choose another name, or give "
            f"--skeleton {skeleton.name}"
        )
    return skeleton


def parse_definition(content: object) -> Skeleton:
    """Read the fields of a definition; raises ``ValueError`` with the name of an invalid field."""
    if not isinstance(content, dict):
        raise ValueError(f"{content!r:.40} is neither a definition nor one of {', '.join(SKELETONS)}")
    names = [item.name for item in fields(Skeleton)]
    if unknown := [name for name in content if name not in names]:
        raise ValueError(f"'{unknown[0]!s:.40}': unknown field; the fields are {', '.join(names)}")
    joints = read_field(content, "joints", read_names)
    numbers = JointNumbers(joints)
    optional: dict[str, Callable[[object], Any]] = {
        "z_bone": numbers.pair,
        "x_pair": numbers.pair,
        "dimensions": read_integer,
        "torso": numbers.two_groups,
        "arms": numbers.pairs,
        "legs": numbers.pairs,
        "head": numbers.pairs,
        "drawn_bones": numbers.pairs,
    }
    given = {
        key: read_field(content, key, parse)
        for key, parse in optional.items()
        if content.get(key) is not None
    }
    return Skeleton(
        read_field(content, "name", read_name),
        joints,
        parents=read_field(content, "parents", numbers.many),
        center=read_field(content, "center", numbers.distinct),
        **given,
    )


def read_field(content: dict, name: str, parse: Callable[[object], Any]) -> Any:
    """Return the parsed field ``name``; raises ``ValueError`` that names it."""
    if name not in content:
        raise ValueError(f"'{name}' is missing")
    try:
        return parse(content[name])
    except ValueError as error:
        raise ValueError(f"'{name}': {error}") from error


def read_list(value: object) -> Sequence[Any]:
    """Return ``value`` if it is a list, otherwise raise ``ValueError``."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{value!r:.40} is not a list")
    return value


def read_name(value: object) -> str:
    """Return ``value`` if it is a printable name, otherwise raise ``ValueError``."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"{value!r:.40} is not a name")
    return value


def read_names(value: object) -> tuple[str, ...]:
    """Return a list of different names."""
    names = tuple(map(read_name, read_list(value)))
    if not 2 <= len(names) <= MAX_JOINTS:
        raise ValueError(f"{len(names)} joints; a skeleton has 2 to {MAX_JOINTS}")
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"{repeated[0]} occurs twice")
    return names


def read_integer(value: object) -> int:
    """Return ``value`` if it is an integer, otherwise raise ``ValueError``."""
    if type(value) is not int:
        raise ValueError(f"{value!r:.40} is not an integer")
    return value


@dataclass(frozen=True)
class JointNumbers:
    """Conversion of joints, given by name or number, to numbers; its methods raise ``ValueError``."""

    joints: tuple[str, ...]

    def one(self, value: object) -> int:
        """Return the number of a joint."""
        if isinstance(value, str) and value in self.joints:
            return self.joints.index(value)
        if type(value) is int and 0 <= value < len(self.joints):
            return value
        raise ValueError(f"{value!r:.40} is not the name of a joint or a number below {len(self.joints)}")

    def many(self, value: object) -> tuple[int, ...]:
        """Return the numbers of a list of joints."""
        return tuple(map(self.one, read_list(value)))

    def distinct(self, value: object) -> tuple[int, ...]:
        """Return the numbers of a list of different joints."""
        numbers = self.many(value)
        if len(set(numbers)) < len(numbers):
            raise ValueError("a joint occurs twice")
        return numbers

    def pair(self, value: object) -> Pair:
        """Return the numbers of two different joints."""
        numbers = self.distinct(value)
        if len(numbers) != 2:
            raise ValueError(f"{value!r:.40} is not a pair of joints")
        return numbers[0], numbers[1]

    def pairs(self, value: object) -> tuple[Pair, ...]:
        """Return the numbers of a list of pairs."""
        return tuple(map(self.pair, read_list(value)))

    def two_groups(self, value: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the numbers of two lists of joints."""
        groups = tuple(map(self.distinct, read_list(value)))
        if len(groups) != 2:
            raise ValueError("it must consist of two lists")
        return groups[0], groups[1]
