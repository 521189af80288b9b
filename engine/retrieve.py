"""Retrieval: nearest neighbours of the validation clips among the training clips (section 4.3).

Similarities are computed for a block of queries at a time, so that beside the features themselves
memory is bounded whatever the number of clips: at NTU-120's size, 63,026 and 50,919 clips of 2048
features, 0.94 GB and one block.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from options.errors import UserError

BLOCK_BYTES = 2**29  # of similarities at a time; larger blocks are hardly faster


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
    rows = max(1, BLOCK_BYTES // (gallery.element_size() * len(gallery)))
    block = gallery.new_empty(min(rows, len(queries)), len(gallery))
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=gallery.device)
    similarities = gallery.new_empty(len(queries), k)
    starts = range(0, len(queries), rows)
    for start in tqdm(starts, desc="nearest neighbours", leave=False, disable=None, unit="block"):
        part = queries[start : start + rows]
        products = torch.mm(part, gallery.t(), out=block[: len(part)]).mul_(scale)
        columns, values = best_columns(products, k)
        indices[start : start + rows], similarities[start : start + rows] = columns, values
    return indices, similarities.div_(query_norms[:, None])


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
