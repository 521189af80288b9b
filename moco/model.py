"""Momentum contrast between representations (paper sections 3.1 and 3.3).

``MoCo`` keeps a query encoder, a momentum key encoder and a key queue per representation name.
What they are compared with, and how, is up to the objectives (``moco.losses``). Nothing here depends
on skeletons.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import Embeddings, Objective, Outcome

Views = Mapping[str, Tensor]  # representation -> a batch in its layout


@torch.no_grad()
def momentum_update(query_encoder: nn.Module, key_encoder: nn.Module, momentum: float) -> None:
    """Update the key encoder's parameters in place: ``k = m k + (1 - m) q``.

    Buffers (BatchNorm statistics) are not updated; the key encoder computes its own.
    """
    keys: list[Tensor] = [*key_encoder.parameters()]
    queries: list[Tensor] = [*query_encoder.parameters()]
    torch._foreach_lerp_(keys, queries, 1.0 - momentum)  # one multi-tensor kernel


def add_mlp_head(encoder: nn.Module) -> None:
    """Insert ``Linear(d, d)-ReLU`` before the encoder's last layer; d is its feature dimension."""
    head = cast(nn.Linear, encoder.fc)
    features = head.in_features
    encoder.fc = nn.Sequential(nn.Linear(features, features), nn.ReLU(), head)


def unit(x: Tensor) -> Tensor:
    """Normalize rows to length one, in float32 regardless of autocast."""
    return F.normalize(x.float(), dim=1)


class KeyQueue(nn.Module):
    """FIFO queue of the last ``size`` keys: ``keys`` (size, dim), random unit vectors at the start.

    ``pointer`` is the row of the next key. It is a buffer, so it is saved with the keys.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys with ``keys`` (N, dim); N must divide the queue size."""
        size, batch = self.keys.shape[0], keys.shape[0]
        if size % batch:
            raise ValueError(f"a batch of {batch} keys does not divide the queue size {size}")
        # Index with a tensor, so that the host need not wait for the pointer in every step.
        rows = self.pointer + torch.arange(batch, device=keys.device)
        self.keys.index_copy_(0, rows, keys.to(self.keys.dtype))
        self.pointer.add_(batch).remainder_(size)


class MomentumEncoders(nn.Module):
    """Query and momentum key encoders, one pair per representation.

    Only this module is replicated by data-parallel wrappers. The forward pass treats every clip
    independently (BatchNorm aside), so a batch can be split over devices and gathered.
    """

    def __init__(self, query_encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.query = nn.ModuleDict(query_encoders)
        self.key = copy.deepcopy(self.query)
        self.key.requires_grad_(False)

    def forward(self, query_views: Views, key_views: Views) -> tuple[dict, dict]:
        """Return query and key embeddings: two dictionaries, representation -> ``(N, D)`` unit vectors."""
        queries = {name: unit(self.query[name](x)) for name, x in query_views.items()}
        with torch.no_grad():
            keys = {name: unit(self.key[name](x)) for name, x in key_views.items()}
        return queries, keys


class MoCo(nn.Module):
    """Momentum contrast between the representations of a clip.

    Args:
        representations: names, in the order that determines the random initialization.
        build_encoder: ``build_encoder(name, dim)`` returns a module whose last layer is ``fc``.
        objectives: the loss is the sum of their terms.
        dim: embedding dimension.
        queue_size: keys in each queue, a multiple of the batch size; 0: the negatives are the keys of the
            other clips of the batch.
        momentum: momentum of the key encoders.
        mlp: MLP head instead of a linear one; the head is discarded after pretraining.
    """

    queues: Any  # a ModuleDict, whose values torch types as Module: representation -> KeyQueue

    def __init__(
        self,
        representations: Sequence[str],
        build_encoder: Callable[[str, int], nn.Module],
        objectives: Sequence[Objective],
        dim: int = 128,
        queue_size: int = 16384,
        momentum: float = 0.999,
        mlp: bool = True,
    ) -> None:
        super().__init__()
        self.objectives, self.momentum = list(objectives), momentum
        encoders = {name: build_encoder(name, dim) for name in representations}
        if mlp:
            for encoder in encoders.values():
                add_mlp_head(encoder)
        self.encoders = MomentumEncoders(encoders)
        queued = representations if queue_size else ()
        self.queues = nn.ModuleDict({name: KeyQueue(queue_size, dim) for name in queued})

    def momentum_update(self) -> None:
        """Move every key encoder towards its query encoder; called before the keys are computed."""
        for name, encoder in self.encoders.query.items():
            momentum_update(encoder, self.encoders.key[name], self.momentum)

    def compare(
        self, queries: Mapping[str, Tensor], keys: Mapping[str, Tensor], first: int = 0, step: int = 0
    ) -> Outcome:
        """Return the terms and the logits of all objectives; the arguments are those of ``Embeddings``."""
        # Copies, because enqueueing changes the queues before the backward pass reads them.
        queues = {name: queue.keys.clone() for name, queue in self.queues.items()}
        embeddings = Embeddings(queries, keys, queues, first)
        outcomes = [objective(embeddings, step) for objective in self.objectives]
        terms = {name: term for outcome in outcomes for name, term in outcome.terms.items()}
        return Outcome(terms, {pair: x for outcome in outcomes for pair, x in outcome.logits.items()})

    def enqueue(self, keys: Mapping[str, Tensor]) -> None:
        """Add the batch's keys to every queue."""
        for name, queue in self.queues.items():
            queue.enqueue(keys[name])

    def forward(
        self,
        query_views: Views,
        key_views: Views,
        encode: Callable | None = None,
        gather: Callable[[Tensor], Tensor] = lambda keys: keys,
        rank: int = 0,
        step: int = 0,
    ) -> tuple[Tensor, Outcome]:
        """Run one training step; return the loss, and its terms and logits by name.

        The momentum update and the enqueue happen here, outside any replica and on the keys of all
        devices, so they run once per step on any number of devices. The two views show this process's shard
        of the batch; ``encode`` is ``self.encoders`` or a wrapper of it (data parallel, mixed precision);
        ``gather`` maps the ``(N, D)`` keys of process ``rank`` to those of all processes, in batch order;
        ``step`` is the number of training steps before this one.
        """
        self.momentum_update()
        queries, keys = (encode or self.encoders)(query_views, key_views)
        first = rank * len(next(iter(keys.values())))
        keys = {name: gather(x) for name, x in keys.items()}  # of the global batch
        outcome = self.compare(queries, keys, first, step)
        self.enqueue(keys)
        return torch.stack([*outcome.terms.values()]).sum(), outcome
