"""The arithmetic of momentum contrast, as pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def contrast_logits(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Similarities of queries to their own key (column 0) and to the queue's keys.

    The argument of the softmax in the paper's eq. 1: all three are unit vectors.

    Args:
        query, key: ``(N, D)``.
        queue: ``(K, D)``, keys of earlier batches.

    Returns:
        ``(N, 1 + K)``, divided by the temperature.
    """
    positive = (query * key).sum(dim=1, keepdim=True)  # N x 1
    negative = query @ queue.t()  # N x K
    return torch.cat([positive, negative], dim=1) / temperature


def info_nce(logits: Tensor) -> Tensor:
    """InfoNCE, eq. 1: cross entropy with the positive pair, column 0, as the right class."""
    target = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, target)


@torch.no_grad()
def momentum_update(query_encoder: nn.Module, key_encoder: nn.Module, momentum: float) -> None:
    """Move every weight of the key encoder towards the query encoder's: k = m k + (1 - m) q.

    One multi-tensor operation, a pass over the memory of both.
    Buffers (BatchNorm's statistics) are the key encoder's own and are left alone.
    """
    keys, queries = [*key_encoder.parameters()], [*query_encoder.parameters()]
    torch._foreach_lerp_(keys, queries, 1.0 - momentum)
