"""Retrieval: nearest neighbours of the validation clips among the training clips (section 4.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

QUERY_BLOCK = 512  # queries compared with all gallery clips at a time


def nearest_neighbours(queries: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k gallery rows most similar to each query by cosine: similarities and indices, (N, k)."""
    gallery = F.normalize(gallery, dim=1)
    found = [
        (F.normalize(block, dim=1) @ gallery.t()).topk(k, dim=1)
        for block in queries.split(QUERY_BLOCK)
    ]
    return torch.cat([x.values for x in found]), torch.cat([x.indices for x in found])


def majority_label(neighbour_labels: Tensor, num_classes: int) -> Tensor:
    """The most frequent of each row's labels ``(N, k) -> (N,)``; of equals the smallest label."""
    votes = torch.zeros(
        len(neighbour_labels), num_classes, dtype=torch.int32, device=neighbour_labels.device
    )
    votes.scatter_add_(1, neighbour_labels, torch.ones_like(neighbour_labels, dtype=torch.int32))
    return votes.argmax(dim=1)


def knn_accuracy(
    queries: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor,
    k: int, num_classes: int,
) -> float:
    """Percent of queries whose k nearest gallery clips vote for the right class."""
    _, index = nearest_neighbours(queries, gallery, k)
    predicted = majority_label(gallery_labels[index], num_classes)
    return 100.0 * (predicted == query_labels).float().mean().item()
