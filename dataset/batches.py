"""Which clips make a batch, and threads that draw batches ahead of the training step."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, TypeVar

import torch
from torch import Generator, Tensor

Item = TypeVar("Item")
Batch = TypeVar("Batch")


def shuffled_batches(
    count: int, batch_size: int, generator: Generator, drop_last: bool
) -> list[Tensor]:
    """All of ``count`` clips in random order, cut into index tensors of ``batch_size``."""
    batches = list(torch.randperm(count, generator=generator).split(batch_size))
    if drop_last and batches and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


def ordered_batches(count: int, batch_size: int) -> list[Tensor]:
    """All of ``count`` clips in the store's order."""
    return list(torch.arange(count).split(batch_size))


def prefetch(
    draw: Callable[[Item], Batch], items: Iterable[Item], workers: int
) -> Iterator[Batch]:
    """``draw(item)`` for each item, in order, at most ``workers`` of them ahead of the consumer.

    Torch and numpy let go of the interpreter while they gather and interpolate, so threads draw
    beside the training step without copying clips between processes. What is drawn does not
    depend on ``workers``; 0 draws in line.
    """
    if workers == 0:
        yield from map(draw, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque = deque()
        try:
            for item in items:
                pending.append(pool.submit(draw, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # the consumer left early: what has not begun need not begin
            for future in pending:
                future.cancel()
