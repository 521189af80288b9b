"""The description of a skeleton representation, and the layouts that several encoders share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from facts.datasets import NUM_FRAMES


@dataclass(frozen=True)
class Size:
    """An encoder size that is a command-line flag.

    ``default`` is the paper's value (section 4.2). Integers must be at least 1, at most ``maximum``
    and divisible by ``multiple_of``; strings must be one of ``choices``; floats are probabilities below 1.
    """

    default: int | float | str
    help: str
    choices: tuple[str, ...] = ()
    maximum: int | None = None
    multiple_of: int = 1

    def problem(self, value: int | float | str) -> str | None:
        """Return why ``value`` is not allowed, or None if it is."""
        if self.choices:
            return None if value in self.choices else f"choose from {', '.join(self.choices)}"
        if isinstance(self.default, float):
            is_valid = isinstance(value, (int, float)) and 0 <= value < 1
            return None if is_valid else "must be at least 0 and below 1"
        if type(value) is not int or value < 1:
            return "must be an integer of at least 1"
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {self.maximum}"
        if value % self.multiple_of:
            return f"must be a multiple of {self.multiple_of}"
        return None


NUM_FRAMES_SIZE = Size(NUM_FRAMES, "frames per view after temporal resizing")


@dataclass(frozen=True)
class Representation:
    """One representation of a clip and the encoder that reads it.

    Attributes:
        name: the name in flags and checkpoints.
        layout: maps views ``(N, T, V, 3, M)`` to the input of the encoder.
        build: ``build(num_classes, num_frames=..., skeleton=..., **sizes)`` returns the encoder.
        sizes: the encoder sizes that are flags, by name.
        compile: whether ``--compile`` applies to the encoder.
    """

    name: str
    layout: Callable[[Tensor], Tensor]
    build: Callable[..., nn.Module]
    sizes: Mapping[str, Size] = field(default_factory=dict)
    compile: bool = True


def grid_layout(batch: Tensor) -> Tensor:
    """Lay out ``(N, T, V, 3, M) -> (N, 3, T, V, M)``, the input of graph and image encoders."""
    return batch.permute(0, 3, 1, 2, 4).contiguous()


def is_exported() -> bool:
    """Return whether the model is traced, by ``torch.jit.trace``, ``torch.export`` or ``torch.compile``.

    A trace contains no decision that depends on the batch.
    """
    return torch.jit.is_tracing() or torch.compiler.is_compiling()
