"""Class names of the datasets as published, and of your own datasets.

A store contains the names of its classes (``class_names`` in ``store.json``). The text files in
``class_names/`` have the names for the datasets of ``facts.datasets``, one per line, class 0 first; classes
without a name are shown by number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError, parse_errors

MAX_LENGTH = 100  # characters of a name


def is_class_name(value: object) -> bool:
    """Return whether ``value`` is a printable text of at most ``MAX_LENGTH`` characters."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= MAX_LENGTH


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a text file with one class name per line, class 0 first; raises ``UserError`` if it is not one."""
    with parse_errors(f"{path} cannot be read as a list of class names"):
        names = tuple(map(str.strip, path.read_text(encoding="utf-8-sig").rstrip().splitlines()))
    for number, name in enumerate(names or [""], start=1):
        if not is_class_name(name):
            raise UserError(
                f"{path}, line {number}: expected a class name of at most {MAX_LENGTH} characters; the file "
                "has one name per line, class 0 first"
            )
    return names


_FILES = sorted((Path(__file__).parent / "class_names").glob("*.txt"))
_NAMES = {path.stem: read_class_names(path) for path in _FILES}
_NTU, _PKU = _NAMES.pop("ntu"), _NAMES.pop("pku")
CLASS_NAMES = {"ntu60": _NTU[:60], "ntu120": _NTU, "pku1": _PKU, "pku2": _PKU, **_NAMES}


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
