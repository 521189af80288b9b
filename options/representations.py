"""The names of the representations of a clip, and how a flag spells several of them."""

from __future__ import annotations

from .errors import UserError

# The order is the program's own: of the published checkpoints, and of random initialisation.
REPRESENTATIONS = ("seq-based", "graph-based", "image-based")
SEPARATOR = "_and_"


def parse_representations(text: str) -> tuple[str, ...]:
    """``graph-based_and_seq-based`` -> ``("seq-based", "graph-based")``: any order, one model."""
    names = text.split(SEPARATOR)
    for name in names:
        if name not in REPRESENTATIONS:
            raise UserError(
                f"'{text}': '{name}' is no skeleton representation; name one or more of "
                f"{', '.join(REPRESENTATIONS)}, joined by '{SEPARATOR}'"
            )
    if len(set(names)) < len(names):
        raise UserError(f"'{text}' names a representation twice")
    return tuple(name for name in REPRESENTATIONS if name in names)


def join_representations(names: tuple[str, ...]) -> str:
    return SEPARATOR.join(names)
