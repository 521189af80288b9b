"""Command-line flags that are the fields of a dataclass, such as an objective or an augmentation.

A field with ``help`` in its metadata is a flag of the same name; ``jitter_joints`` is ``--jitter-joints``.
Other entries of the metadata are optional: ``choices``, ``minimum``, ``maximum``, ``above`` (an exclusive
minimum), and ``type`` if it is not that of the default. A default of None depends on the data, see ``help``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import Field, field, fields
from operator import ge, gt, le
from typing import Any, TypeVar

from .errors import UserError

Kind = TypeVar("Kind")

BOUNDS = (("minimum", "at least", ge), ("above", "above", gt), ("maximum", "at most", le))


def flag(default: Any, help: str, **details: Any) -> Any:
    """Return the field of a dataclass that is a flag; ``details`` are the other entries of its metadata."""
    return field(default=default, metadata={"help": help, **details})


def flag_fields(kind: type) -> list[Field]:
    """Return the fields of a dataclass that are flags."""
    return [item for item in fields(kind) if "help" in item.metadata]


def add_class_flags(group: argparse._ArgumentGroup, kind: type, omit: Sequence[str] = ()) -> None:
    """Add the flags of a dataclass, except ``omit``, to a group; ``from_flags`` checks their ranges."""
    for item in flag_fields(kind):
        if item.name in omit:
            continue
        default, details = item.default, item.metadata
        shown = "" if default is None else f" (default: {default})"
        group.add_argument(
            f"--{item.name.replace('_', '-')}",
            type=details.get("type", type(default)),
            choices=details.get("choices"),
            metavar=None if "choices" in details else "X",
            default=default,
            help=f"{details['help']}{shown}".replace("%", "%%"),
        )


def problem(value: Any, details: Mapping[str, Any]) -> str | None:
    """Return why ``value`` is not allowed by the metadata of a field, or None if it is."""
    if "choices" in details:
        return None if value in details["choices"] else f"choose from {', '.join(details['choices'])}"
    known = [(words, details[name], holds) for name, words, holds in BOUNDS if name in details]
    if all(holds(value, limit) for _, limit, holds in known):
        return None
    return f"must be {' and '.join(f'{words} {limit}' for words, limit, _ in known)}"


def from_flags(kind: type[Kind], flags: Mapping[str, Any], **others: Any) -> Kind:
    """Build a dataclass from the values of its flags; missing or None ones have their defaults.

    ``flags`` of other classes are ignored; ``others`` are the fields that are not flags. Raises ``UserError``
    if a value is not allowed, or if the class rejects it with ``ValueError``.
    """
    for item in flag_fields(kind):
        value = flags.get(item.name)
        if value is None:
            continue
        if reason := problem(value, item.metadata):
            raise UserError(f"--{item.name.replace('_', '-')} {value} {reason}")
        others[item.name] = value
    try:
        return kind(**others)
    except ValueError as error:
        raise UserError(str(error)) from error
