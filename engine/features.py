"""Feature extraction from clips."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset.batches import ordered_batches, prefetch, shuffled_batches
from dataset.clips import ClipSet
from dataset.views import classifier_view, evaluation_view
from models.registry import lay_out

from .device import default_workers, in_precision, parallel, place_clips, to_device
from .encoders import ConcatenatedEncoders
from .randomness import ORDER, VIEWS, generator

FEATURE_BATCH = 256  # clips per batch without gradients, which needs less memory than training
GPU_RESERVE = 4 * 2**30  # bytes of GPU memory that cached features leave free


def random_crops(
    clips: ClipSet, batch_size: int, num_frames: int, seed: int, epoch: int
) -> tuple[list[Tensor], Callable[[int], Tensor]]:
    """Return an epoch's shuffled batches of clip indices, and a function from step to views.

    Order and crops are functions of ``seed``, ``epoch`` and the step. The views are ``(N, T, V, 3, M)``.
    """
    batches = shuffled_batches(len(clips), batch_size, generator(seed, ORDER, epoch), drop_last=False)
    view = classifier_view(num_frames)
    return batches, lambda step: view.of(clips, batches[step], generator(seed, VIEWS, epoch, step))


@dataclass(frozen=True)
class FeatureStorage:
    """Where the features of a set of clips are kept: on their device, or in a file if they are too large."""

    dtype: torch.dtype = torch.float32
    limit: float = math.inf  # bytes; above it, features are in an unnamed temporary file in ``folder``
    folder: Path = Path()

    def empty(self, count: int, width: int, device: torch.device) -> Tensor:
        """Return uninitialized features ``(count, width)``; raises ``OSError`` if the disk is full."""
        size = count * width * self.dtype.itemsize
        if size <= self.limit:
            return torch.empty(count, width, dtype=self.dtype, device=device)
        print(f"{size / 1e9:.2f} GB of features are kept in a temporary file in {self.folder}", flush=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            # Without allocation, a full disk would end the process when a page is written.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
            return torch.from_numpy(np.memmap(file, dtype, "r+", shape=(count, width)))


@dataclass(frozen=True)
class FeatureExtractor:
    """Encoders together with how and where they run."""

    encoders: ConcatenatedEncoders  # on ``device``
    device: torch.device  # where features are computed and returned
    # ``encoders`` in the precision of the run and on all its devices; None: ``encoders``
    encode: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    workers: int = 0  # threads that prepare batches ahead

    def features(self, view: Tensor) -> Tensor:
        """Encode a view ``(N, T, V, 3, M)`` to features ``(N, D)``."""
        representations, skeleton = self.encoders.representations, self.encoders.skeleton
        views = lay_out(to_device(view, self.device), representations, skeleton)
        return (self.encode or self.encoders)(views)

    @torch.no_grad()
    def extract(
        self,
        batches: list[Tensor],
        make_view: Callable[[int], Tensor],
        title: str,
        storage: FeatureStorage | None = None,
    ) -> Tensor:
        """Return the features ``(clips, D)`` of all ``batches``, in their order; float32 by default.

        ``make_view(step)`` returns the view of a batch. ``title`` labels the progress bar.
        """
        count, done = sum(map(len, batches)), 0
        storage = storage or FeatureStorage()
        features = storage.empty(count, self.encoders.num_features, self.device)
        views = prefetch(make_view, range(len(batches)), self.workers)
        for view in tqdm(views, total=len(batches), desc=title, leave=False, disable=None, unit="batch"):
            batch = self.features(view)
            features[done : done + len(batch)] = batch
            done += len(batch)
        return features

    def random_crop_features(self, clips: ClipSet, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return features ``(N, D)`` and labels ``(N,)`` of one random crop per clip, shuffled."""
        batches, make_view = random_crops(clips, FEATURE_BATCH, self.encoders.num_frames, seed, epoch)
        features = self.extract(batches, make_view, f"features of epoch {epoch + 1}")
        return features, clips.labels.to(self.device)[torch.cat(batches).to(self.device)]

    def center_crop_features(
        self, clips: ClipSet, title: str, storage: FeatureStorage | None = None
    ) -> Tensor:
        """Return features ``(N, D)`` of the center crops of ``clips``, in their order."""
        batches = ordered_batches(len(clips), FEATURE_BATCH)
        view = evaluation_view(self.encoders.num_frames)
        return self.extract(batches, lambda step: view.of(clips, batches[step]), title, storage)


def place_run(
    args: argparse.Namespace, encoders: ConcatenatedEncoders, splits: Sequence[ClipSet], device: torch.device
) -> tuple[FeatureExtractor, list[ClipSet]]:
    """Place clips and encoders as the flags say; returns the extractor of features and the placed clips."""
    clips = place_clips(splits, args.data_device, device)
    workers = default_workers(clips[0], device) if args.workers is None else args.workers
    encode = parallel(in_precision(encoders, args.amp, device), device, args.gpu)
    return FeatureExtractor(encoders, device, encode, workers), clips


class TrainingFeatures:
    """Features of one random crop per training clip: new crops in every epoch, or K cached ones.

    With a cache, epoch e uses the crops of epoch e mod K. The first K epochs equal those without a cache;
    later ones repeat their crops in a new order. Everything is a function of seed and epoch, so a resumed
    probe recomputes crops on demand. The cache is on the GPU if it fits, otherwise in host memory.
    ``cached_crops`` is K, or None for new crops in every epoch.
    """

    def __init__(
        self, extractor: FeatureExtractor, clips: ClipSet, seed: int, cached_crops: int | None
    ) -> None:
        self.extractor, self.clips, self.seed, self.cached_crops = extractor, clips, seed, cached_crops
        self._cached: dict[int, tuple[Tensor, Tensor]] = {}
        if cached_crops is not None:
            size = 4 * cached_crops * len(clips) * extractor.encoders.num_features  # bytes
            device = extractor.device
            fits = device.type == "cuda" and size + GPU_RESERVE < torch.cuda.mem_get_info(device)[0]
            self.storage = device if fits else torch.device("cpu")
            print(f"{cached_crops} cached crops per clip: {size / 1e6:,.1f} MB of features on {self.storage}")

    def __call__(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the features ``(N, D)`` and labels ``(N,)`` of ``epoch``, shuffled."""
        if self.cached_crops is None:
            return self.extractor.random_crop_features(self.clips, self.seed, epoch)
        crop, device = epoch % self.cached_crops, self.extractor.device
        if crop not in self._cached:
            features, labels = self.extractor.random_crop_features(self.clips, self.seed, crop)
            self._cached[crop] = features.to(self.storage), labels.to(self.storage)
        features, labels = (x.to(device) for x in self._cached[crop])
        if epoch == crop:
            return features, labels  # already shuffled
        order = torch.randperm(len(labels), generator=generator(self.seed, ORDER, epoch)).to(device)
        return features[order], labels[order]
