"""Momentum contrast between representations (paper sections 3.1 and 3.3).

``MoCo`` keeps a query encoder, a momentum key encoder and a key queue per representation name.
Intra- and inter-skeleton contrast differ only in the (query, key) pairs. Nothing here depends on
skeletons.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Views = Mapping[str, Tensor]  # representation -> a batch in its layout


def intra_pairs(representations: Sequence[str]) -> list[tuple[str, str]]:
    """Return (query, key) pairs of each representation with itself (section 3.1)."""
    return [(name, name) for name in representations]


def inter_pairs(representations: Sequence[str]) -> list[tuple[str, str]]:
    """Return (query, key) pairs of each representation with every other one, in both orders (section 3.3)."""
    return [(q, k) for q in representations for k in representations if q != k]


def all_pairs(representations: Sequence[str]) -> list[tuple[str, str]]:
    """Return both ``inter_pairs`` and ``intra_pairs``."""
    return inter_pairs(representations) + intra_pairs(representations)


PAIRS = {"intra": intra_pairs, "inter": inter_pairs, "all": all_pairs}


def contrast_logits(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return cosine similarities of the queries to their positive key and to the queue (argument of eq. 1).

    Args:
        query: ``(N, D)`` unit vectors.
        key: ``(N, D)`` unit vectors, the positives.
        queue: ``(K, D)`` unit vectors, the negatives.
        temperature: divides the similarities.

    Returns:
        ``(N, 1 + K)`` logits; column 0 is the positive pair.
    """
    positive = (query * key).sum(dim=1, keepdim=True)  # N x 1
    negative = query @ queue.t()  # N x K
    return torch.cat([positive, negative], dim=1) / temperature


def batch_contrast_logits(query: Tensor, keys: Tensor, first: int, temperature: float) -> Tensor:
    """Return cosine similarities of the queries to the keys of the batch: no queue, as in MoCo v3.

    Args:
        query: ``(N, D)`` unit vectors.
        keys: ``(B, D)`` unit vectors of the global batch; the positive of query i is row ``first + i``.
        first: row of the positive of the first query; not 0 in the other processes of a distributed run.
        temperature: divides the similarities.

    Returns:
        ``(N, B)`` logits; column 0 is the positive pair, the others are in the order of the batch.
    """
    positive = first + torch.arange(query.shape[0], device=query.device)[:, None]  # N x 1
    other = torch.arange(keys.shape[0] - 1, device=query.device)[None]  # 1 x (B - 1)
    columns = torch.cat([positive, other + (other >= positive)], dim=1)  # N x B
    return (query @ keys.t()).gather(1, columns) / temperature


def info_nce(logits: Tensor) -> Tensor:
    """Return the InfoNCE loss (eq. 1): cross-entropy with column 0, the positive pair, as the target."""
    target = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, target)


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
        pairs: (query, key) names to contrast, from ``intra_pairs``, ``inter_pairs`` or ``all_pairs``.
        dim: embedding dimension.
        queue_size: keys in each queue, a multiple of the batch size; 0: the negatives are the keys of the
            other clips of the batch.
        momentum: momentum of the key encoders.
        temperature: temperature of the softmax (eq. 1).
        mlp: MLP head instead of a linear one; the head is discarded after pretraining.
    """

    queues: Any  # a ModuleDict, whose values torch types as Module: representation -> KeyQueue

    def __init__(
        self,
        representations: Sequence[str],
        build_encoder: Callable[[str, int], nn.Module],
        pairs: Sequence[tuple[str, str]],
        dim: int = 128,
        queue_size: int = 16384,
        momentum: float = 0.999,
        temperature: float = 0.07,
        mlp: bool = True,
    ) -> None:
        super().__init__()
        self.pairs = list(pairs)
        self.momentum, self.temperature = momentum, temperature
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

    def contrast(
        self, queries: Mapping[str, Tensor], keys: Mapping[str, Tensor], first: int = 0
    ) -> list[Tensor]:
        """Return the logits of each (query, key) pair, in the order of ``pairs``.

        They are ``(N, 1 + K)``, or ``(N, B)`` without a queue; column 0 is the positive pair.

        Args:
            queries: embeddings ``(N, D)`` of this process's clips.
            keys: embeddings ``(B, D)`` of the global batch; the positive of query i is row ``first + i``.
            first: row of the positive of the first query.
        """
        if not self.queues:
            return [
                batch_contrast_logits(queries[q], keys[k], first, self.temperature) for q, k in self.pairs
            ]
        return [
            contrast_logits(
                queries[q],
                keys[k][first : first + len(queries[q])],
                self.queues[k].keys.clone(),
                self.temperature,
            )
            for q, k in self.pairs
        ]

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
    ) -> tuple[Tensor, list[Tensor]]:
        """Run one training step; return the loss (eq. 2, summed over pairs) and the logits of each pair.

        The momentum update and the enqueue happen here, outside any replica and on the keys of all
        devices, so they run once per step on any number of devices.

        Args:
            query_views: the batch, or this process's shard of it.
            key_views: another view of the same clips.
            encode: ``self.encoders`` or a wrapper of it (data parallel, mixed precision).
            gather: maps this process's ``(N, D)`` keys to those of all processes, in batch order.
            rank: number of this process.
        """
        self.momentum_update()
        queries, keys = (encode or self.encoders)(query_views, key_views)
        first = rank * len(next(iter(keys.values())))
        keys = {name: gather(x) for name, x in keys.items()}  # of the global batch
        logits = self.contrast(queries, keys, first)
        self.enqueue(keys)
        return torch.stack([info_nce(x) for x in logits]).sum(), logits
