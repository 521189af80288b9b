"""Class names of the datasets as published, and of your own datasets.

A store contains the names of its classes (``class_names`` in ``store.json``). The names below are for the
datasets of ``facts.datasets``; classes without a name are shown by number. Class 0 of NTU RGB+D is action
A001; NTU-60 has the first 60.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError

NTU_ACTIONS = (
    "drink water",  # A001
    "eat meal/snack",
    "brushing teeth",
    "brushing hair",
    "drop",
    "pickup",
    "throw",
    "sitting down",
    "standing up (from sitting position)",
    "clapping",
    "reading",  # A011
    "writing",
    "tear up paper",
    "wear jacket",
    "take off jacket",
    "wear a shoe",
    "take off a shoe",
    "wear on glasses",
    "take off glasses",
    "put on a hat/cap",
    "take off a hat/cap",  # A021
    "cheer up",
    "hand waving",
    "kicking something",
    "reach into pocket",
    "hopping (one foot jumping)",
    "jump up",
    "make a phone call/answer phone",
    "playing with phone/tablet",
    "typing on a keyboard",
    "pointing to something with finger",  # A031
    "taking a selfie",
    "check time (from watch)",
    "rub two hands together",
    "nod head/bow",
    "shake head",
    "wipe face",
    "salute",
    "put the palms together",
    "cross hands in front (say stop)",
    "sneeze/cough",  # A041
    "staggering",
    "falling",
    "touch head (headache)",
    "touch chest (stomachache/heart pain)",
    "touch back (backache)",
    "touch neck (neckache)",
    "nausea or vomiting condition",
    "use a fan (with hand or paper)/feeling warm",
    "punching/slapping other person",
    "kicking other person",  # A051
    "pushing other person",
    "pat on back of other person",
    "point finger at the other person",
    "hugging other person",
    "giving something to other person",
    "touch other person's pocket",
    "handshaking",
    "walking towards each other",
    "walking apart from each other",
    "put on headphone",  # A061
    "take off headphone",
    "shoot at the basket",
    "bounce ball",
    "tennis bat swing",
    "juggling table tennis balls",
    "hush (quite)",
    "flick hair",
    "thumb up",
    "thumb down",
    "make ok sign",  # A071
    "make victory sign",
    "staple book",
    "counting money",
    "cutting nails",
    "cutting paper (using scissors)",
    "snapping fingers",
    "open bottle",
    "sniff (smell)",
    "squat down",
    "toss a coin",  # A081
    "fold paper",
    "ball up paper",
    "play magic cube",
    "apply cream on face",
    "apply cream on hand back",
    "put on bag",
    "take off bag",
    "put something into a bag",
    "take something out of a bag",
    "open a box",  # A091
    "move heavy objects",
    "shake fist",
    "throw up cap/hat",
    "hands up (both hands)",
    "cross arms",
    "arm circles",
    "arm swings",
    "running on the spot",
    "butt kicks (kick backward)",
    "cross toe touch",  # A101
    "side kick",
    "yawn",
    "stretch oneself",
    "blow nose",
    "hit other person with something",
    "wield knife towards other person",
    "knock over other person (hit with body)",
    "grab other person’s stuff",
    "shoot at other person with a gun",
    "step on foot",  # A111
    "high-five",
    "cheers and drink",
    "carry something with other person",
    "take a photo of other person",
    "follow other person",
    "whisper in other person’s ear",
    "exchange things with other person",
    "support somebody with hand",
    "finger-guessing game (playing rock-paper-scissors)",
)
PKU_ACTIONS = (  # alphabetical, as published
    "bow",  # class 1 in the label files
    "brushing hair",
    "brushing teeth",
    "check time (from watch)",
    "cheer up",
    "clapping",
    "cross hands in front (say stop)",
    "drink water",
    "drop",
    "eat meal/snack",
    "falling",  # 11
    "giving something to other person",
    "hand waving",
    "handshaking",
    "hopping (one foot jumping)",
    "hugging other person",
    "jump up",
    "kicking other person",
    "kicking something",
    "make a phone call/answer phone",
    "pat on back of other person",  # 21
    "pickup",
    "playing with phone/tablet",
    "point finger at the other person",
    "pointing to something with finger",
    "punching/slapping other person",
    "pushing other person",
    "put on a hat/cap",
    "put something inside pocket",
    "reading",
    "rub two hands together",  # 31
    "salute",
    "sitting down",
    "standing up",
    "take off a hat/cap",
    "take off glasses",
    "take off jacket",
    "take out something from pocket",
    "taking a selfie",
    "tear up paper",
    "throw",  # 41
    "touch back (backache)",
    "touch chest (stomachache/heart pain)",
    "touch head (headache)",
    "touch neck (neckache)",
    "typing on a keyboard",
    "use a fan (with hand or paper)/feeling warm",
    "wear jacket",
    "wear on glasses",
    "wipe face",
    "writing",  # 51
)
UCLA_ACTIONS = (  # actions 1, 2, 3, 4, 5, 6, 8, 9, 11 and 12 in file names
    "pick up with one hand",
    "pick up with two hands",
    "drop trash",
    "walk around",
    "sit down",
    "stand up",
    "donning",
    "doffing",
    "throw",
    "carry",
)
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "ntu60": NTU_ACTIONS[:60],
    "ntu120": NTU_ACTIONS,
    "pku1": PKU_ACTIONS,
    "pku2": PKU_ACTIONS,
    "ucla": UCLA_ACTIONS,
}
MAX_LENGTH = 100  # characters of a name


def published_class_names(dataset: str, num_classes: int) -> tuple[str, ...]:
    """Return the published names of the classes of a dataset; empty if there are none."""
    names = CLASS_NAMES.get(dataset, ())
    return names if len(names) == num_classes else ()


def default_class_names(dataset: str, num_classes: int) -> tuple[str, ...]:
    """Return the published names or, for datasets without names, ``class 0``, ``class 1`` and so on."""
    names = published_class_names(dataset, num_classes)
    return names or tuple(f"class {label}" for label in range(num_classes))


def short_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names without parenthesized remarks, for plots and tables, if they still differ then."""
    short = tuple(re.sub(r"\s*\([^)]*\)", "", name) for name in names)
    return short if all(short) and len(set(short)) == len(names) else tuple(names)


def is_class_name(value: object) -> bool:
    """Return whether ``value`` is a printable text of at most ``MAX_LENGTH`` characters."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= MAX_LENGTH


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a text file with one class name per line, class 0 first.

    Raises:
        UserError: the file cannot be read, or a line is blank or too long.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of class names: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not is_class_name(line):
            raise UserError(
                f"{path}, line {number}: expected a class name of at most {MAX_LENGTH} characters; the file "
                "has one name per line, class 0 first"
            )
    if not lines:
        raise UserError(f"{path} is empty; it must have one class name per line, class 0 first")
    return tuple(lines)
