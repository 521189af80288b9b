"""Features of whole splits from frozen encoders."""

from __future__ import annotations

import os
from typing import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset.batches import prefetch, ordered_batches, shuffled_batches
from dataset.clips import ClipSet
from models.representations import lay_out
from dataset.views import classifier_view, evaluation_view
from options.errors import UserError

from .randomness import ORDER, VIEWS, generator

FEATURE_BATCH = 256  # clips at a time; without gradients more fit than in training
SPARE = 4 * 2**30  # bytes of a GPU's memory that cached features leave to everything else

EpochFeatures = Callable[[int], tuple[Tensor, Tensor]]  # epoch -> features (N, D), labels (N,)


@torch.no_grad()
def extract_features(
    encode: Callable, encoders: nn.Module, batches: list[Tensor],
    draw_view: Callable[[int], Tensor], device: torch.device, workers: int, title: str = "",
) -> Tensor:
    """Features of every clip of ``batches``, in their order: ``(clips, D)`` float32 on ``device``.

    ``encode`` calls ``encoders``, in the run's precision and on all its devices; ``draw_view(i)``
    gives the view ``(N, T, V, 3, M)`` of batch i. A title shows progress.
    """
    count = sum(len(batch) for batch in batches)
    features, done = torch.empty(count, encoders.num_features, device=device), 0
    views = prefetch(draw_view, range(len(batches)), workers)
    disable = None if title else True
    for view in tqdm(views, total=len(batches), desc=title, leave=False, disable=disable, unit="batch"):
        batch = encode(lay_out(view.to(device, non_blocking=True), encoders.representations))
        features[done : done + len(batch)] = batch
        done += len(batch)
    return features


def train_features(
    encode: Callable, encoders: nn.Module, clips: ClipSet, seed: int, epoch: int,
    device: torch.device, workers: int,
) -> tuple[Tensor, Tensor]:
    """One epoch's features and labels of the training clips, shuffled, from fresh random crops."""
    order = generator(seed, ORDER, epoch)
    batches = shuffled_batches(len(clips), FEATURE_BATCH, order, drop_last=False)
    view = classifier_view(encoders.num_frames)

    def draw(step: int) -> Tensor:
        return view.of(clips, batches[step], generator(seed, VIEWS, epoch, step))

    features = extract_features(encode, encoders, batches, draw, device, workers)
    labels = clips.labels.to(device)[torch.cat(batches).to(device)]
    return features, labels


def training_features(
    encode: Callable, encoders: nn.Module, clips: ClipSet, seed: int, device: torch.device,
    workers: int, cached_crops: int | None,
) -> EpochFeatures:
    """``epoch -> (features (N, D), labels (N,))``: fresh crops, or K that are kept (``CachedCrops``)."""

    def fresh(epoch: int) -> tuple[Tensor, Tensor]:
        return train_features(encode, encoders, clips, seed, epoch, device, workers)

    if cached_crops is None:
        return fresh
    return CachedCrops(cached_crops, fresh, len(clips), encoders.num_features, seed, device)


class CachedCrops:
    """Features of K random crops of every training clip, each computed once and kept.

    Epoch e takes the crops of epoch e mod K, so the first K epochs are those of a probe without a
    cache and later ones repeat them, each in an order of its own. All of it is a function of seed
    and epoch: a resumed probe computes the crops again when it comes to need them.

    Args:
        num_crops: K.
        extract: ``epoch -> (features, labels)`` of fresh crops.
        num_clips, num_features: the size of one crop's features.
        seed: of the order of the later epochs.
        device: where features are used. They are kept there if all fit, else on the host.
    """

    def __init__(
        self, num_crops: int, extract: EpochFeatures, num_clips: int, num_features: int, seed: int,
        device: torch.device,
    ) -> None:
        size = 4 * num_crops * num_clips * num_features  # bytes
        self.num_crops, self.extract, self.seed, self.device = num_crops, extract, seed, device
        self.storage = storage_for(size, device)
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        print(
            f"head trained on {num_crops} cached crops a clip: {size / 1e6:,.1f} MB of features on "
            f"{self.storage}", flush=True,
        )

    def __call__(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The features and labels of one epoch, shuffled, on the device."""
        crop = epoch % self.num_crops
        if crop not in self.kept:
            self.kept[crop] = tuple(x.to(self.storage) for x in self.extract(crop))
        features, labels = (x.to(self.device) for x in self.kept[crop])
        if epoch == crop:
            return features, labels  # shuffled already
        order = torch.randperm(len(labels), generator=generator(self.seed, ORDER, epoch))
        order = order.to(self.device)
        return features[order], labels[order]


def storage_for(size: int, device: torch.device) -> torch.device:
    """``device`` if ``size`` bytes of cached features fit there, else the host; refused if neither."""
    if device.type == "cuda" and size + SPARE < torch.cuda.mem_get_info(device)[0]:
        return device
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > 0.8 * host:
        raise UserError(
            f"--cached-crops would keep {size / 1e9:.1f} GB of features, too much for this machine's "
            f"{host / 1e9:.1f} GB of memory; give fewer, or leave the flag out for fresh crops"
        )
    return torch.device("cpu")


def validation_features(
    encode: Callable, encoders: nn.Module, clips: ClipSet, device: torch.device, workers: int,
    title: str = "validation features",
) -> Tensor:
    """Features of the centre crops of all clips, in the store's order: they never change."""
    batches = ordered_batches(len(clips), FEATURE_BATCH)

    def draw(step: int) -> Tensor:
        return evaluation_view(encoders.num_frames).of(clips, batches[step])

    return extract_features(encode, encoders, batches, draw, device, workers, title)
