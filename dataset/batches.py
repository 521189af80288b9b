"""Batches of clip indices, and threads that prepare batches ahead of the training step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Generator, Tensor

Item = TypeVar("Item")
Batch = TypeVar("Batch")


def shuffled_batches(count: int, batch_size: int, generator: Generator, drop_last: bool) -> list[Tensor]:
    """Return a random permutation of ``count`` clips, split into index tensors of ``batch_size``."""
    batches = list(torch.randperm(count, generator=generator).split(batch_size))
    if drop_last and batches and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


def ordered_batches(count: int, batch_size: int) -> list[Tensor]:
    """Return the indices of ``count`` clips in order, split into tensors of ``batch_size``."""
    return list(torch.arange(count).split(batch_size))


def prefetch(make: Callable[[Item], Batch], items: Iterable[Item], workers: int) -> Iterator[Batch]:
    """Yield ``make(item)`` for each item in order, computed by threads ahead of the consumer.

    Torch and numpy release the GIL while they gather and interpolate, so threads work in parallel
    with the training step without copying clips between processes. ``workers`` is the number of threads and
    of batches ahead; 0 calls ``make`` when an item is needed. The results do not depend on it.
    """
    if workers == 0:
        yield from map(make, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque = deque()
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # the consumer may stop early
            for future in pending:
                future.cancel()
