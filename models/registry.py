"""The registry of skeleton representations: name, input layout, encoder and sizes of each.

A representation of another stream than the joint coordinates has the stream as a suffix, for example
``seq-based:motion`` (``models.streams``). It has the layout and the encoder of ``seq-based``.

To add a representation, write one module with an encoder, its layout and a ``Representation``, and
add it to ``REPRESENTATIONS``. Flags, help texts, pairs, tables, benchmarks and tests read the registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from facts.skeletons import KINECT_V2, Skeleton
from utils.errors import UserError

from . import agcn, gru, hcn
from .representation import NUM_FRAMES_SIZE, Representation, Size
from .streams import JOINT, STREAMS

# The order is that of the official checkpoints and of the random initialization.
REPRESENTATIONS: dict[str, Representation] = {
    entry.name: entry for entry in (gru.SEQUENCE, agcn.GRAPH, hcn.IMAGE)
}
SEPARATOR, STREAM_SEPARATOR = "_and_", ":"


def size_flags() -> dict[str, Size]:
    """Return every encoder size by the name of its flag, in the order of the registry."""
    sizes = {name: size for entry in REPRESENTATIONS.values() for name, size in entry.sizes.items()}
    return {**sizes, "num_frames": NUM_FRAMES_SIZE}


def complete_sizes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all encoder sizes: those in ``given``, and the paper's values for missing or None ones.

    A checkpoint that was written before a size flag existed is complete after this call. Raises ``UserError``
    if a name is unknown or a value is not allowed.
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
    """Build the encoder of a representation with or without a stream, a module as in ``CONTRIBUTING.md``.

    Missing ``sizes`` have the paper's values, at which the feature dimension is 2048 (sequence), 256 (graph)
    or 4096 (image). Its last layer ``fc`` has ``num_classes`` outputs. Raises ``UserError`` if the
    representation is unknown or the encoder cannot be built at these sizes.
    """
    entry, complete = registry_entry(representation), complete_sizes(sizes)
    used = {name: complete[name] for name in entry.sizes}
    try:
        return entry.build(num_classes, num_frames=complete["num_frames"], skeleton=skeleton, **used)
    except ValueError as error:
        raise UserError(f"cannot build the {representation} encoder: {error}") from error


def lay_out(
    batch: Tensor, representations: Sequence[str], skeleton: Skeleton = KINECT_V2
) -> dict[str, Tensor]:
    """Lay out views ``(N, T, V, 3, M)`` for each representation: name -> input of its encoder.

    The stream is computed first, then the layout. Representations with the same stream and layout share
    the tensor.
    """
    kinds = {name: (stream_of(name), registry_entry(name).layout) for name in representations}
    streams = {stream: STREAMS[stream](batch, skeleton) for stream, _ in kinds.values()}
    layouts = {kind: kind[1](streams[kind[0]]) for kind in set(kinds.values())}
    return {name: layouts[kind] for name, kind in kinds.items()}


def stream_of(name: str) -> str:
    """Return the stream of a representation: ``seq-based:bone`` -> ``bone``, ``seq-based`` -> ``joint``."""
    return name.partition(STREAM_SEPARATOR)[2] or JOINT


def registry_entry(name: str) -> Representation:
    """Return the registry entry of a representation with or without a stream; ``UserError`` if unknown."""
    base = name.partition(STREAM_SEPARATOR)[0]
    if base not in REPRESENTATIONS:
        raise UserError(f"unknown representation '{base}'; choose from {', '.join(REPRESENTATIONS)}")
    if stream_of(name) not in STREAMS:
        raise UserError(f"unknown stream in '{name}'; choose from {', '.join(STREAMS)}")
    return REPRESENTATIONS[base]


def with_stream(name: str, stream: str) -> str:
    """Return a representation without a stream as one of ``stream``; the joint stream has no suffix."""
    return name if stream == JOINT else f"{name}{STREAM_SEPARATOR}{stream}"


def short_name(name: str) -> str:
    """Return the name for logs: ``seq-based:motion`` -> ``seq:motion``."""
    base, separator, stream = name.partition(STREAM_SEPARATOR)
    return base.removesuffix("-based") + separator + stream


def sort_representations(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names in the order of the registry, then of the streams."""
    bases, streams = [*REPRESENTATIONS], [*STREAMS]

    def rank(name: str) -> tuple[int, int]:
        return bases.index(registry_entry(name).name), streams.index(stream_of(name))

    return tuple(sorted(names, key=rank))


def parse_representations(text: str, stream: str | None = None) -> tuple[str, ...]:
    """Parse ``graph-based:bone_and_seq-based`` to ``("seq-based", "graph-based:bone")``, in registry order.

    ``stream`` is that of names without one; None means joint. Raises ``UserError`` if a name is unknown or
    occurs twice, or ``stream`` contradicts the stream of a name.
    """
    names = []
    for part in text.split(SEPARATOR):
        base, separator, own_stream = part.partition(STREAM_SEPARATOR)
        if base not in REPRESENTATIONS or (separator and own_stream not in STREAMS):
            raise UserError(
                f"'{text}': '{part}' is not a skeleton representation; give one or more of "
                f"{', '.join(REPRESENTATIONS)}, joined by '{SEPARATOR}', each optionally with a stream "
                f"(:{', :'.join(STREAMS)})"
            )
        if own_stream and stream not in (None, own_stream):
            raise UserError(f"--stream {stream} contradicts '{part}': omit one of them")
        names.append(with_stream(base, own_stream or stream or JOINT))
    if len(set(names)) < len(names):
        raise UserError(f"'{text}' names a representation twice")
    return sort_representations(names)


def join_representations(names: Sequence[str]) -> str:
    """Join ``("seq-based", "graph-based")`` to ``seq-based_and_graph-based``."""
    return SEPARATOR.join(names)
