"""The queue of keys: the negatives of the contrast, first in, first out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KeyQueue(nn.Module):
    """The last ``size`` keys: unit vectors ``keys`` (size, dim), random at the start.

    ``pointer`` is the row that the next key goes to. It is a buffer, saved with the keys.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by ``keys`` (N, dim); N divides the queue's size."""
        size, batch = self.keys.shape[0], keys.shape[0]
        if size % batch:
            raise ValueError(f"a batch of {batch} keys does not divide the queue of {size}")
        # Indexing by a tensor keeps the pointer on the device: no wait for it in every step.
        rows = self.pointer + torch.arange(batch, device=keys.device)
        self.keys.index_copy_(0, rows, keys.to(self.keys.dtype))
        self.pointer.add_(batch).remainder_(size)
