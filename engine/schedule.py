"""The learning rate of an epoch: drops by ten at given epochs, or half a cosine."""

from __future__ import annotations

import math
from typing import Sequence

from torch.optim import Optimizer


def learning_rate(
    base: float, epoch: int, epochs: int, schedule: Sequence[int], cosine: bool
) -> float:
    """Learning rate of ``epoch`` (from zero) out of ``epochs``."""
    if cosine:
        return base * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
    return base * 0.1 ** sum(epoch >= milestone for milestone in schedule)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
