"""Features of whole splits from frozen encoders."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset.batches import draw_ahead, ordered_batches, shuffled_batches
from dataset.clips import ClipSet
from dataset.layout import lay_out
from dataset.views import classifier_view, evaluation_view

from .randomness import ORDER, VIEWS, generator

FEATURE_BATCH = 256  # clips at a time; without gradients more fit than in training


@torch.no_grad()
def extract_features(
    encode: nn.Module, representations: tuple[str, ...], batches: list[Tensor],
    draw_view: Callable[[int], Tensor], device: torch.device, workers: int, title: str = "",
) -> Tensor:
    """Features of every clip of ``batches``, in their order: ``(clips, D)`` on ``device``.

    ``draw_view(i)`` gives the view ``(N, T, V, 3, M)`` of batch i. A title shows progress.
    """
    count = sum(len(batch) for batch in batches)
    features, done = torch.empty(0), 0
    views = draw_ahead(draw_view, range(len(batches)), workers)
    disable = None if title else True
    for view in tqdm(views, total=len(batches), desc=title, leave=False, disable=disable, unit="batch"):
        batch = encode(lay_out(view.to(device, non_blocking=True), representations))
        if not done:
            features = batch.new_empty(count, batch.shape[1])
        features[done : done + len(batch)] = batch
        done += len(batch)
    return features


def train_features(
    encode: nn.Module, encoders: nn.Module, clips: ClipSet, seed: int, epoch: int,
    device: torch.device, workers: int,
) -> tuple[Tensor, Tensor]:
    """One epoch's features and labels of the training clips, shuffled, from fresh random crops."""
    order = generator(seed, ORDER, epoch)
    batches = shuffled_batches(len(clips), FEATURE_BATCH, order, drop_last=False)

    def draw(step: int) -> Tensor:
        return classifier_view(
            clips, batches[step], generator(seed, VIEWS, epoch, step), encoders.num_frames
        )

    features = extract_features(encode, encoders.representations, batches, draw, device, workers)
    labels = clips.labels.to(device)[torch.cat(batches).to(device)]
    return features, labels


def validation_features(
    encode: nn.Module, encoders: nn.Module, clips: ClipSet, device: torch.device, workers: int,
    title: str = "validation features",
) -> Tensor:
    """Features of the centre crops of all clips, in the store's order: they never change."""
    batches = ordered_batches(len(clips), FEATURE_BATCH)

    def draw(step: int) -> Tensor:
        return evaluation_view(clips, batches[step], encoders.num_frames)

    return extract_features(
        encode, encoders.representations, batches, draw, device, workers, title
    )
