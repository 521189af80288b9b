"""Retrieval: nearest neighbours of the validation clips among the training clips (section 4.3).

Similarities are computed a tile at a time, so that beside the features themselves memory is bounded
whatever the number of clips: at NTU-120's size, 63,026 and 50,919 clips of 2048 features, 0.93 GB and
one tile of 64 MiB.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from options.errors import UserError

TILE = 4096  # queries and gallery clips compared at a time; squares multiply fastest


@contextmanager
def full_float32() -> Iterator[None]:
    """No TF32 inside: rounded to 10 bits, close neighbours would change places."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def norms(features: Tensor) -> Tensor:
    """The length of each row ``(N, D) -> (N,)``, not below 1e-12; refused where it is no number."""
    lengths = torch.linalg.vector_norm(features, dim=1)
    if not lengths.isfinite().all():
        raise UserError(
            f"the features of {(~lengths.isfinite()).sum()} of {len(features)} clips are not finite "
            "numbers; check the checkpoint and the store"
        )
    return lengths.clamp_(min=1e-12)


def best_columns(similarities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Columns and values of each row's k largest ``(N, k)``, of equals the first columns.

    ``topk`` leaves open which of equals it takes; where there are some (or k is 1) the maximum is
    taken k times instead. That overwrites ``similarities``.
    """
    if k > 1:
        values, columns = similarities.topk(min(k + 1, similarities.shape[1]), dim=1)
        if not (values[:, 1:] == values[:, :-1]).any():
            return columns[:, :k], values[:, :k]
    found = []
    for _ in range(k):
        found.append(similarities.max(dim=1, keepdim=True))  # of equals the first
        similarities.scatter_(1, found[-1].indices, -torch.inf)
    return torch.cat([x.indices for x in found], dim=1), torch.cat([x.values for x in found], dim=1)


@torch.no_grad()
@full_float32()
def nearest_neighbours(queries: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k gallery rows most similar to each query by cosine: indices and similarities ``(N, k)``.

    Most similar first, of equals the first in the gallery. Neither argument is copied: lengths are
    divided out of the products.

    Raises:
        UserError: a feature is not a finite number.
    """
    query_norms, scale = norms(queries), norms(gallery).reciprocal_()
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=gallery.device)
    similarities = gallery.new_empty(len(queries), k)
    starts = range(0, len(queries), TILE)
    for start in tqdm(starts, desc="nearest neighbours", leave=False, disable=None, unit="block"):
        rows = slice(start, start + TILE)
        indices[rows], similarities[rows] = nearest_of_block(queries[rows], gallery, scale, k)
    return indices, similarities.div_(query_norms[:, None])


def nearest_of_block(queries: Tensor, gallery: Tensor, scale: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices and products of the k largest ``queries @ gallery.T * scale`` in each row ``(N, k)``."""
    found = []
    for start in range(0, len(gallery), TILE):
        part = gallery[start : start + TILE]
        products = (queries @ part.t()).mul_(scale[start : start + TILE])  # N x TILE
        columns, values = best_columns(products, min(k, len(part)))
        found.append((columns + start, values))
    indices, values = (torch.cat(parts, dim=1) for parts in zip(*found))
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]  # earlier tiles first
    return indices.gather(1, order), values.gather(1, order)


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
    indices, _ = nearest_neighbours(queries, gallery, k)
    predicted = majority_label(gallery_labels[indices], num_classes)
    return 100.0 * (predicted == query_labels).float().mean().item()
