"""The registry of skeleton representations: name, input layout, encoder and sizes of each.

To add a representation, write one module with an encoder, its layout and a ``Representation``, and
add it to ``REPRESENTATIONS``. Flags, help texts, pairs, tables, benchmarks and tests read the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from options.errors import UserError
from options.skeletons import KINECT_V2, Skeleton

from . import agcn, gru, hcn
from .representation import NUM_FRAMES_SIZE, Representation, Size

# The order is that of the official checkpoints and of the random initialization.
REPRESENTATIONS: dict[str, Representation] = {
    entry.name: entry for entry in (gru.SEQUENCE, agcn.GRAPH, hcn.IMAGE)
}
SEPARATOR = "_and_"


def size_flags() -> dict[str, Size]:
    """Return every encoder size by the name of its flag, in the order of the registry."""
    sizes = {name: size for entry in REPRESENTATIONS.values() for name, size in entry.sizes.items()}
    return {**sizes, "num_frames": NUM_FRAMES_SIZE}


def complete_sizes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all encoder sizes: those in ``given``, and the paper's values for missing or None ones.

    A checkpoint that was written before a size flag existed is complete after this call.

    Raises:
        UserError: a name is unknown or a value is not allowed.
    """
    flags = size_flags()
    if unknown := given.keys() - flags.keys():
        raise UserError(f"unknown encoder sizes: {', '.join(sorted(unknown))}")
    sizes = {name: size.default if given.get(name) is None else given[name] for name, size in flags.items()}
    for name, size in flags.items():
        if problem := size.problem(sizes[name]):
            raise UserError(f"--{name.replace('_', '-')} {sizes[name]}: {problem}")
    return sizes


def build_encoder(
    representation: str, num_classes: int, skeleton: Skeleton = KINECT_V2, **sizes: Any
) -> nn.Module:
    """Build the encoder of a representation.

    Args:
        representation: a key of ``REPRESENTATIONS``.
        num_classes: number of outputs of the last layer, ``fc``.
        skeleton: the skeleton of the clips.
        sizes: encoder sizes; missing ones have the paper's values.

    Returns:
        A module with ``num_features``, ``forward_features(x)`` and ``fc``. At the paper's sizes the
        feature dimension is 2048 (sequence), 256 (graph) or 4096 (image).

    Raises:
        UserError: the representation is unknown or the encoder cannot be built at these sizes.
    """
    if representation not in REPRESENTATIONS:
        raise UserError(
            f"unknown representation '{representation}'; choose from {', '.join(REPRESENTATIONS)}"
        )
    entry, complete = REPRESENTATIONS[representation], complete_sizes(sizes)
    used = {name: complete[name] for name in entry.sizes}
    try:
        return entry.build(num_classes, num_frames=complete["num_frames"], skeleton=skeleton, **used)
    except ValueError as error:
        raise UserError(f"cannot build the {representation} encoder: {error}") from error


def lay_out(batch: Tensor, representations: Sequence[str]) -> dict[str, Tensor]:
    """Lay out views ``(N, T, V, 3, M)`` for each representation: name -> input of its encoder.

    Representations with the same layout share the tensor.
    """
    layouts = {REPRESENTATIONS[name].layout for name in representations}
    made = {layout: layout(batch) for layout in layouts}
    return {name: made[REPRESENTATIONS[name].layout] for name in representations}


def parse_representations(text: str) -> tuple[str, ...]:
    """``graph-based_and_seq-based`` -> ``("seq-based", "graph-based")``, in the registry's order.

    Raises:
        UserError: a name is unknown or occurs twice.
    """
    names = text.split(SEPARATOR)
    for name in names:
        if name not in REPRESENTATIONS:
            raise UserError(
                f"'{text}': '{name}' is not a skeleton representation; give one or more of "
                f"{', '.join(REPRESENTATIONS)}, joined by '{SEPARATOR}'"
            )
    if len(set(names)) < len(names):
        raise UserError(f"'{text}' names a representation twice")
    return tuple(name for name in REPRESENTATIONS if name in names)


def join_representations(names: Sequence[str]) -> str:
    """``("seq-based", "graph-based")`` -> ``seq-based_and_graph-based``."""
    return SEPARATOR.join(names)
