"""Momentum contrast between representations (paper sections 3.1 and 3.3).

``MoCo`` knows names of representations and encoders, nothing of skeletons. Intra- and
inter-skeleton contrast differ in one thing: which queries meet which keys.
"""

from __future__ import annotations

import copy
from typing import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .loss import contrast_logits, info_nce, momentum_update
from .queue import KeyQueue

Views = Mapping[str, Tensor]  # representation -> a batch in its layout


def intra_pairs(representations: Sequence[str]) -> list[tuple[str, str]]:
    """(query, key): each representation against itself (section 3.1)."""
    return [(name, name) for name in representations]


def inter_pairs(representations: Sequence[str]) -> list[tuple[str, str]]:
    """(query, key): each representation against every other, all ordered pairs (section 3.3)."""
    return [(q, k) for q in representations for k in representations if q != k]


def add_mlp_head(encoder: nn.Module) -> None:
    """Put ``Linear(d, d)-ReLU`` before the encoder's last layer, d its number of features."""
    features = encoder.fc.in_features
    encoder.fc = nn.Sequential(nn.Linear(features, features), nn.ReLU(), encoder.fc)


def unit(x: Tensor) -> Tensor:
    """Rows scaled to length one, in float32 whatever the encoder computed in."""
    return F.normalize(x.float(), dim=1)


class MomentumEncoders(nn.Module):
    """A query and a momentum key encoder for each representation.

    This is all that data-parallel replicas hold. Its forward pass treats every clip alone and
    changes no state but BatchNorm's, so a batch may be split over devices and gathered.
    """

    def __init__(self, query_encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.query = nn.ModuleDict(query_encoders)
        self.key = copy.deepcopy(self.query)
        self.key.requires_grad_(False)

    def forward(self, query_views: Views, key_views: Views) -> tuple[dict, dict]:
        """``representation -> (N, D)`` unit vectors, for the queries and for the keys."""
        queries = {name: unit(self.query[name](x)) for name, x in query_views.items()}
        with torch.no_grad():
            keys = {name: unit(self.key[name](x)) for name, x in key_views.items()}
        return queries, keys


class MoCo(nn.Module):
    """Query encoders, momentum key encoders and a key queue per representation.

    Args:
        representations: names, in the order that fixes the random initialisation.
        build_encoder: ``build_encoder(name, dim)`` gives a module with a last layer ``fc``.
        pairs: (query, key) names to contrast, from ``intra_pairs`` or ``inter_pairs``.
        dim: dimensions of the space of contrast.
        queue_size: keys in each queue; the batch size must divide it.
        momentum: share that a key weight keeps in a step.
        temperature: of the softmax, eq. 1.
        mlp: a two-layer head instead of one layer; removed after pretraining.
    """

    def __init__(
        self,
        representations: Sequence[str],
        build_encoder: Callable[[str, int], nn.Module],
        pairs: Sequence[tuple[str, str]],
        dim: int = 128,
        queue_size: int = 16384,
        momentum: float = 0.999,
        temperature: float = 0.07,
        mlp: bool = False,
    ) -> None:
        super().__init__()
        self.pairs = list(pairs)
        self.momentum, self.temperature = momentum, temperature
        encoders = {name: build_encoder(name, dim) for name in representations}
        if mlp:
            for encoder in encoders.values():
                add_mlp_head(encoder)
        self.encoders = MomentumEncoders(encoders)
        self.queues = nn.ModuleDict({name: KeyQueue(queue_size, dim) for name in representations})

    def momentum_update(self) -> None:
        """One step of every key encoder towards its query encoder; before the keys are computed."""
        for name in self.queues:
            momentum_update(self.encoders.query[name], self.encoders.key[name], self.momentum)

    def contrast(self, queries: Mapping[str, Tensor], keys: Mapping[str, Tensor]) -> list[Tensor]:
        """Logits ``(N, 1 + K)`` of each (query, key) pair, in the order of ``pairs``."""
        return [
            contrast_logits(queries[q], keys[k], self.queues[k].keys.clone(), self.temperature)
            for q, k in self.pairs
        ]

    def enqueue(self, keys: Mapping[str, Tensor]) -> None:
        for name, queue in self.queues.items():
            queue.enqueue(keys[name])

    def forward(
        self, query_views: Views, key_views: Views, encode: Callable | None = None,
        gather: Callable[[Tensor], Tensor] = lambda keys: keys,
    ) -> tuple[Tensor, list[Tensor]]:
        """One step of contrast: loss (eq. 2, summed over pairs) and the logits of each pair.

        Momentum update and enqueue happen here, outside any replica, on the keys of all devices:
        once a step, however many there are.

        Args:
            query_views, key_views: the batch, or this process's share of it.
            encode: ``self.encoders`` or a wrapper of it (parallel, mixed precision).
            gather: ``(N, D)`` keys of this process to those of all, in the order of the batch.
        """
        self.momentum_update()
        queries, keys = (encode or self.encoders)(query_views, key_views)
        logits = self.contrast(queries, keys)
        self.enqueue({name: gather(x) for name, x in keys.items()})
        return torch.stack([info_nce(x) for x in logits]).sum(), logits
