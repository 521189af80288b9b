"""Retrieval: nearest neighbors of validation clips among training clips (paper section 4.3).

Similarities are computed tile by tile, so the memory next to the features is bounded for any number of
clips. The features themselves may be in half precision, and in a file. At the size of NTU-120 (63,026 and
50,919 clips, 2048 features) they take 0.93 GB in float32, and a tile 64 MiB. The second metric of the
official code compares the codes of an autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from utils.errors import UserError

from .randomness import ORDER, WEIGHTS, generator, seed_globally

TILE = 4096  # queries and gallery clips compared at a time; square tiles are fastest
HIDDEN = (1024, 512, 125)  # of the autoencoder
EPOCHS, LEARNING_RATE = 400, 1e-3
DECAY, DECAY_EPOCHS = 0.95, 50  # per epoch, although the official code calls the interval "steps"


def norms(features: Tensor) -> Tensor:
    """Return the norm of each row, ``(N, D) -> (N,)``, at least 1e-12; ``UserError`` if one is non-finite."""
    values = torch.empty(len(features), device=features.device)
    for norm, tile in zip(values.split(TILE), features.split(TILE)):
        torch.linalg.vector_norm(tile.float(), dim=1, out=norm)
    if not values.isfinite().all():
        raise UserError(
            f"the features of {(~values.isfinite()).sum()} of {len(features)} clips are non-finite; check "
            "the checkpoint and the store"
        )
    return values.clamp_(min=1e-12)


def largest_columns(similarities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return columns and values ``(N, k)`` of each row's k largest; ties go to the lowest column.

    ``topk`` does not define which of equal values it returns. If there are ties, or k is 1, the maximum
    is taken k times instead, which overwrites ``similarities``.
    """
    if k > 1:
        values, columns = similarities.topk(min(k + 1, similarities.shape[1]), dim=1)
        if not (values[:, 1:] == values[:, :-1]).any():
            return columns[:, :k], values[:, :k]
    found = []
    for _ in range(k):
        found.append(similarities.max(dim=1, keepdim=True))  # the first of equal values
        similarities.scatter_(1, found[-1].indices, -torch.inf)
    return torch.cat([x.indices for x in found], dim=1), torch.cat([x.values for x in found], dim=1)


@torch.no_grad()
def nearest_neighbors(
    queries: Tensor, gallery: Tensor, k: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return indices and cosine similarities ``(N, k)`` of the k gallery rows most similar to each query.

    They are sorted by decreasing similarity; ties go to the lowest index. Neither argument is copied: norms
    are divided out of the dot products. Products are computed in float32 on ``device``, by default that of
    the gallery. Raises ``UserError`` if a feature is non-finite.
    """
    device = device or gallery.device
    query_norms, scale = norms(queries).to(device), norms(gallery).reciprocal_().to(device)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=device)
    similarities = torch.empty(len(queries), k, device=device)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # with the 10 bits of TF32, close neighbors would swap
    try:
        starts = range(0, len(queries), TILE)
        for start in tqdm(starts, desc="nearest neighbors", leave=False, disable=None, unit="block"):
            rows = slice(start, start + TILE)
            block = queries[rows].to(device, torch.float32)
            indices[rows], similarities[rows] = nearest_of_block(block, gallery, scale, k)
    finally:
        torch.set_float32_matmul_precision(precision)
    return indices, similarities.div_(query_norms[:, None])


def nearest_of_block(queries: Tensor, gallery: Tensor, scale: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values ``(N, k)`` of each row's k largest in ``queries @ gallery.T * scale``."""
    counts = [min(k, len(part)) for part in gallery.split(TILE)]
    # Allocated once: small tensors that outlive a tile would keep the allocator from reusing its memory.
    indices = torch.empty(len(queries), sum(counts), dtype=torch.int64, device=queries.device)
    values = queries.new_empty(indices.shape)
    parts = zip(gallery.split(TILE), scale.split(TILE), indices.split(counts, 1), values.split(counts, 1))
    for tile, (part, part_scale, part_indices, part_values) in enumerate(parts):
        products = (queries @ part.to(queries).t()).mul_(part_scale)  # N x TILE
        columns, largest = largest_columns(products, part_values.shape[1])
        torch.add(columns, tile * TILE, out=part_indices)
        part_values.copy_(largest)
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]  # stable: earlier tiles first
    return indices.gather(1, order), values.gather(1, order)


def majority_label(neighbor_labels: Tensor, num_classes: int) -> Tensor:
    """Return the most frequent label of each row, ``(N, k) -> (N,)``; ties go to the smallest label."""
    votes = torch.zeros(len(neighbor_labels), num_classes, dtype=torch.int32, device=neighbor_labels.device)
    votes.scatter_add_(1, neighbor_labels, torch.ones_like(neighbor_labels, dtype=torch.int32))
    return votes.argmax(dim=1)


def unit_blocks(
    features: Tensor, widths: Sequence[int], empty: Callable[[int, int], Tensor] | None = None
) -> Tensor:
    """Normalize the features ``(N, sum(widths))`` of each concatenated encoder to unit length.

    The cosine similarity of the result is the mean of the encoders' cosine similarities. Features of a
    single encoder are returned unchanged. ``empty`` makes the result; by default it is like ``features``.
    """
    if len(widths) == 1:
        return features
    result = empty(*features.shape) if empty else torch.empty_like(features)
    for rows, tile in zip(result.split(TILE), features.split(TILE)):
        blocks = [F.normalize(block.float(), dim=1) for block in tile.split([*widths], dim=1)]
        rows.copy_(torch.cat(blocks, dim=1))
    return result


def knn_labels(queries: Tensor, gallery: Tensor, gallery_labels: Tensor, k: int, num_classes: int) -> Tensor:
    """Return the class ``(N,)`` that the k gallery clips nearest to each query vote for.

    The products are computed on the device of the labels.
    """
    indices, _ = nearest_neighbors(queries, gallery, k, gallery_labels.device)
    return majority_label(gallery_labels[indices], num_classes)


def knn_accuracy(
    queries: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor, k: int, num_classes: int
) -> float:
    """Return the percentage of queries whose k nearest gallery clips vote for the correct class."""
    predicted = knn_labels(queries, gallery, gallery_labels, k, num_classes)
    return 100.0 * (predicted == query_labels).float().mean().item()


def mean_class_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes in ``labels`` (N,) of the percentage of correct predictions."""
    correct = (predicted == labels).float()
    return 100.0 * torch.stack([correct[labels == label].mean() for label in labels.unique()]).mean().item()


class Autoencoder(nn.Module):
    """Maps features ``(N, D)`` to codes ``(N, 125)`` and back: D-1024-512-125, with tanh in between."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        sizes = [num_features, *HIDDEN]
        self.encoder, self.decoder = nn.Sequential(), nn.Sequential()
        for before, after in zip(sizes, HIDDEN):
            self.encoder.extend([nn.Linear(before, after), nn.Tanh()])
        for before, after in zip(sizes[::-1], sizes[-2::-1]):
            self.decoder.extend([nn.Linear(before, after), nn.Tanh()])
        del self.decoder[-1]  # features are not bounded

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct features."""
        return self.decoder(self.encoder(x))


def train_autoencoder(features: Tensor, batch_size: int, seed: int, print_freq: int) -> Autoencoder:
    """Train an autoencoder on ``features`` (N, D); prints the mean loss every ``print_freq`` epochs."""
    seed_globally(seed, WEIGHTS, 2)
    model = Autoencoder(features.shape[1]).to(features.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, DECAY_EPOCHS, DECAY)
    for epoch in tqdm(range(EPOCHS), desc="autoencoder", leave=False, disable=None, unit="epoch"):
        total = torch.zeros((), device=features.device)
        order = torch.randperm(len(features), generator=generator(seed, ORDER, epoch))
        for index in order.to(features.device).split(batch_size):
            x = features[index]
            loss = F.mse_loss(model(x), x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(x)
        schedule.step()
        if (epoch + 1) % print_freq == 0 or epoch + 1 == EPOCHS:
            tqdm.write(f"autoencoder epoch {epoch + 1:3d}/{EPOCHS}  loss {total.item() / len(features):.6f}")
    return model.eval()


@torch.no_grad()
def encode(model: Autoencoder, features: Tensor) -> Tensor:
    """Compute codes, ``(N, D) -> (N, 125)``, in blocks because the hidden layers are large."""
    return torch.cat([model.encoder(block) for block in features.split(TILE)])
