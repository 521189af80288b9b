"""Feature extraction from clips."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from dataset.batches import ordered_batches, prefetch, shuffled_batches
from dataset.clips import ClipSet
from dataset.views import classifier_view, evaluation_view
from models.registry import lay_out
from utils.errors import UserError

from .device import to_device
from .encoders import ConcatenatedEncoders, CoordinateBaseline
from .randomness import ORDER, VIEWS, generator

FEATURE_BATCH = 256  # clips per batch without gradients, which needs less memory than training
GPU_RESERVE = 4 * 2**30  # bytes of GPU memory that cached features leave free
MAX_HOST_FRACTION = 0.8  # fraction of the host's memory that cached features may fill

EpochFeatures = Callable[[int], tuple[Tensor, Tensor]]  # epoch -> features (N, D), labels (N,)


def random_crops(
    clips: ClipSet, batch_size: int, num_frames: int, seed: int, epoch: int
) -> tuple[list[Tensor], Callable[[int], Tensor]]:
    """Return an epoch's shuffled batches of clip indices, and a function from step to views.

    Order and crops are functions of ``seed``, ``epoch`` and the step. The views are ``(N, T, V, 3, M)``.
    """
    batches = shuffled_batches(len(clips), batch_size, generator(seed, ORDER, epoch), drop_last=False)
    view = classifier_view(num_frames)

    def make_view(step: int) -> Tensor:
        return view.of(clips, batches[step], generator(seed, VIEWS, epoch, step))

    return batches, make_view


@dataclass(frozen=True)
class FeatureExtractor:
    """Encoders together with how and where they run.

    Args:
        encoders: on ``device``.
        device: where features are computed and returned.
        encode: ``encoders`` in the precision of the run and on all its devices; None: ``encoders``.
        workers: threads that prepare batches ahead.
    """

    encoders: ConcatenatedEncoders | CoordinateBaseline
    device: torch.device
    encode: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    workers: int = 0

    def features(self, view: Tensor) -> Tensor:
        """Encode a view ``(N, T, V, 3, M)`` to features ``(N, D)``."""
        representations, skeleton = self.encoders.representations, self.encoders.skeleton
        views = lay_out(to_device(view, self.device), representations, skeleton)
        return (self.encode or self.encoders)(views)

    @torch.no_grad()
    def extract(self, batches: list[Tensor], make_view: Callable[[int], Tensor], title: str) -> Tensor:
        """Return the features ``(clips, D)`` float32 of all ``batches``, in their order.

        ``make_view(step)`` returns the view of a batch. ``title`` labels the progress bar.
        """
        count, done = sum(map(len, batches)), 0
        features = torch.empty(count, self.encoders.num_features, device=self.device)
        views = prefetch(make_view, range(len(batches)), self.workers)
        for view in tqdm(views, total=len(batches), desc=title, leave=False, disable=None, unit="batch"):
            batch = self.features(view)
            features[done : done + len(batch)] = batch
            done += len(batch)
        return features

    def random_crop_features(self, clips: ClipSet, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return features ``(N, D)`` and labels ``(N,)`` of one random crop per clip, shuffled."""
        batches, make_view = random_crops(clips, FEATURE_BATCH, self.encoders.num_frames, seed, epoch)
        features = self.extract(batches, make_view, f"features of epoch {epoch}")
        return features, clips.labels.to(self.device)[torch.cat(batches).to(self.device)]

    def center_crop_features(self, clips: ClipSet, title: str) -> Tensor:
        """Return features ``(N, D)`` of the center crops of ``clips``, in their order."""
        batches = ordered_batches(len(clips), FEATURE_BATCH)
        view = evaluation_view(self.encoders.num_frames)
        return self.extract(batches, lambda step: view.of(clips, batches[step]), title)


def training_features(
    extractor: FeatureExtractor, clips: ClipSet, seed: int, cached_crops: int | None
) -> EpochFeatures:
    """Return a function from epoch to features and labels: of new random crops, or of cached ones."""
    extract = partial(extractor.random_crop_features, clips, seed)
    if cached_crops is None:
        return extract
    size = 4 * cached_crops * len(clips) * extractor.encoders.num_features  # bytes
    storage = cache_device(size, extractor.device)
    print(f"{cached_crops} cached crops per clip: {size / 1e6:,.1f} MB of features on {storage}", flush=True)
    return CachedCrops(cached_crops, extract, seed, extractor.device, storage)


class CachedCrops:
    """Features of K random crops per training clip, computed once and cycled through.

    Epoch e uses the crops of epoch e mod K. The first K epochs equal those without a cache; later ones
    repeat their crops in a new order. Everything is a function of seed and epoch, so a resumed probe
    recomputes crops on demand.

    Args:
        num_crops: K.
        extract: returns the features and labels of an epoch's random crops.
        seed: seed of the order of later epochs.
        device: the device on which features are used.
        storage: the device on which they are stored.
    """

    def __init__(
        self, num_crops: int, extract: EpochFeatures, seed: int, device: torch.device, storage: torch.device
    ) -> None:
        self.num_crops, self.extract, self.seed = num_crops, extract, seed
        self.device, self.storage = device, storage
        self._cached: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the features and labels of ``epoch``, shuffled, on ``device``."""
        crop = epoch % self.num_crops
        if crop not in self._cached:
            features, labels = self.extract(crop)
            self._cached[crop] = features.to(self.storage), labels.to(self.storage)
        features, labels = (x.to(self.device) for x in self._cached[crop])
        if epoch == crop:
            return features, labels  # already shuffled
        order = torch.randperm(len(labels), generator=generator(self.seed, ORDER, epoch)).to(self.device)
        return features[order], labels[order]


def cache_device(size: int, device: torch.device) -> torch.device:
    """Return ``device`` if ``size`` bytes of cached features fit there, otherwise the CPU.

    Raises:
        UserError: the host's memory is too small as well.
    """
    if device.type == "cuda" and size + GPU_RESERVE < torch.cuda.mem_get_info(device)[0]:
        return device
    host = math.inf  # unknown on Windows
    if hasattr(os, "sysconf"):
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > MAX_HOST_FRACTION * host:
        raise UserError(
            f"--cached-crops needs {size / 1e9:.1f} GB for features, too much for the {host / 1e9:.1f} GB of "
            "memory of this machine; use fewer, or omit the flag for new crops in every epoch"
        )
    return torch.device("cpu")
