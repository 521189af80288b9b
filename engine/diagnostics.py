"""Diagnostics of a pretraining: feature quality, and warnings if it does not learn.

The features and embeddings of a fixed sample of training clips are measured every few epochs, in
evaluation mode and with separate random numbers, so that the training is not affected.
"""

from __future__ import annotations

import argparse
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from dataset.augment import RandomCrop
from dataset.clips import ClipSet
from dataset.views import View, evaluation_view
from moco.model import MomentumEncoders, unit
from models.registry import lay_out, short_name

from .randomness import MONITOR, generator

SAMPLE = 256  # clips
BATCH = 64
WINDOW = 20  # epochs; an epoch of a small dataset is a single step, whose loss varies

# Thresholds that separated collapsed from healthy runs on UTD-MHAD.
CHANCE = 0.97  # loss / ln(1 + K)
COLLAPSED_RANK, COLLAPSED_UNIFORMITY = 2.5, -0.5
FEW_CLIPS = 20  # up to which similar clips are no sign of a collapse
SHORTCUT_LOSS, SHORTCUT_ACCURACY = 0.8, 25.0


def effective_rank(x: Tensor) -> float:
    """Return RankMe (Garrido et al., ICML 2023) of ``x`` (N, D): exp of the entropy of its singular values.

    Between 1, if all rows are multiples of one vector, and ``min(N, D)``; NaN if ``x`` is non-finite.
    """
    if not x.isfinite().all():
        return math.nan
    values = torch.linalg.svdvals(x.double())
    shares = values / values.sum().clamp(min=1e-12) + 1e-7
    return math.exp(-(shares * shares.log()).sum().item())


def alignment(x: Tensor, y: Tensor) -> float:
    """Return the mean squared distance of positive pairs, unit rows (N, D) (Wang and Isola, ICML 2020)."""
    return (x - y).square().sum(dim=1).mean().item()


def uniformity(x: Tensor) -> float:
    """Return log E exp(-2 d^2) over pairs of rows ``(N, D)`` (Wang and Isola, ICML 2020); 0 if collapsed."""
    return torch.pdist(x).square().mul(-2).exp().mean().log().item()


def leave_one_out_accuracy(x: Tensor, labels: Tensor) -> float:
    """Return the 1-NN accuracy in percent by cosine similarity of each row of ``x`` (N, D) to the others."""
    similarity = unit(x) @ unit(x).t()
    similarity.fill_diagonal_(-torch.inf)
    return 100.0 * (labels[similarity.argmax(dim=1)] == labels).float().mean().item()


@dataclass
class Monitor:
    """Measures the query encoders on a fixed sample of clips."""

    encoders: MomentumEncoders  # not a data-parallel wrapper
    clips: ClipSet  # of the training
    view: View  # the augmented view of pretraining
    seed: int  # determines the sample and its views
    device: torch.device
    knn: bool = False  # also measure 1-NN accuracy on the labels, which pretraining itself never uses

    def __post_init__(self) -> None:
        order = torch.randperm(len(self.clips), generator=generator(self.seed, MONITOR))
        self.index = order[:SAMPLE].sort().values

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return effective ranks, alignment and uniformity (and 1-NN accuracy) per representation."""
        was_training = self.encoders.training
        self.encoders.eval()
        metrics: dict[str, float] = {"monitored_clips": len(self.index)}
        for name, encoder in self.encoders.query.items():
            short = short_name(name)
            _, first = self._encode(encoder, name, self.view, 0)
            features, second = self._encode(encoder, name, self.view, 1)
            metrics[f"feature_rank/{short}"] = effective_rank(features)
            metrics[f"embedding_rank/{short}"] = effective_rank(second)
            metrics[f"alignment/{short}"] = alignment(first, second)
            metrics[f"uniformity/{short}"] = uniformity(second)
            if self.knn:
                features, _ = self._encode(encoder, name, evaluation_view(self.view.num_frames), 2)
                labels = self.clips.labels[self.index].to(features.device)
                metrics[f"knn/{short}"] = leave_one_out_accuracy(features, labels)
        self.encoders.train(was_training)
        return metrics

    def _encode(self, encoder: Any, name: str, view: View, number: int) -> tuple[Tensor, Tensor]:
        """Return features ``(N, D)`` and unit embeddings ``(N, dim)`` of view ``number`` of the sample."""
        features = []
        for position, index in enumerate(self.index.split(BATCH)):
            batch = view.of(self.clips, index, generator(self.seed, MONITOR, number, position))
            x = lay_out(batch.to(self.device), (name,), self.clips.skeleton)[name]
            features.append(encoder.forward_features(x))
        joined = torch.cat(features).float()
        return joined, unit(encoder.fc(joined))


class Warnings:
    """Collects the warnings of a pretraining run, each of which is returned once.

    Losses and accuracies are averaged over the last epochs, at most ``WINDOW`` and an eighth of the run.
    Nothing is reported in the first quarter of the ``epochs``, in which a healthy run can look the same.
    """

    def __init__(self, epochs: int, has_queue: bool = True) -> None:
        self._first_epoch, self._has_queue = max(epochs // 4, 2), has_queue
        self._window = min(max(epochs // 8, 1), WINDOW)
        self._recent: deque[Mapping[str, float]] = deque(maxlen=self._window)
        self._last: dict[str, float] = {}  # including those that are not measured in every epoch
        self._reported: set[str] = set()

    def check(self, epoch: int, metrics: Mapping[str, float]) -> list[str]:
        """Add the metrics of an epoch; return the warnings that were not returned before."""
        self._recent.append(metrics)
        self._last.update(metrics)
        if epoch < self._first_epoch or len(self._recent) < self._window:
            return []
        per_pair = [n for n in metrics if n.startswith(("relative_loss/", "contrastive_accuracy/"))]
        averaged = {n: fmean(entry[n] for entry in self._recent if n in entry) for n in per_pair}
        found = problems({**self._last, **averaged}, self._has_queue)
        new = {name: text for name, text in found.items() if name not in self._reported}
        self._reported |= new.keys()
        return [f"warning, epoch {epoch + 1}: {text}" for text in new.values()]


def named(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Return the metrics whose names start with ``prefix/``, without it."""
    return {k.removeprefix(prefix + "/"): v for k, v in metrics.items() if k.startswith(prefix + "/")}


def problems(metrics: Mapping[str, float], has_queue: bool = True) -> dict[str, str]:
    """Return what is wrong according to the metrics of an epoch: name of the problem -> message.

    - shortcut, only with a queue: the positive key is often nearest although the loss is close to
      chance; keys of the current batch differ from older ones by the age of their encoder, not by the clip.
    - chance: the loss of a pair stays at ln(1 + K).
    - collapse: all clips have nearly the same features or embeddings.
    """
    found = {}
    losses, accuracies = named(metrics, "relative_loss"), named(metrics, "contrastive_accuracy")
    ranks, uniformities = named(metrics, "feature_rank"), named(metrics, "uniformity")
    shortcut = [p for p, x in losses.items() if x > SHORTCUT_LOSS and accuracies[p] > SHORTCUT_ACCURACY]
    at_chance = [pair for pair, loss in losses.items() if loss > CHANCE]
    clips = metrics.get("monitored_clips", SAMPLE)
    limit = min(COLLAPSED_RANK, 1.0 + 0.1 * (clips - 1))  # the rank is at most the number of clips
    are_close = {n: clips > FEW_CLIPS and x > COLLAPSED_UNIFORMITY for n, x in uniformities.items()}
    collapsed = [n for n, x in ranks.items() if x < limit or are_close[n]]
    if shortcut and has_queue:
        at_chance = [pair for pair in at_chance if pair not in shortcut]
        found["shortcut"] = (
            f"{', '.join(shortcut)}: accuracy is high although the loss is close to chance; the keys are "
            "distinguished by their age, not by the clip. Raise --moco-m (0.999), lower --moco-t or --lr, or "
            "take the negatives from the batch (--moco-k 0)"
        )
    terms = named(metrics, "loss")
    if collapsed:
        found["collapse"] = (
            f"{', '.join(collapsed)}: the features have collapsed, they are nearly the same for all clips; "
            "lower --lr or raise --moco-m and start over"
        )
        if len(terms) > 1:
            values = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
            found["collapse"] += f". Terms of the loss: {values}"
        if "distillation" in terms:
            found["collapse"] += (
                "; untrained teachers of the distillation can be the cause: raise --distill-start"
            )
    elif at_chance:
        found["chance"] = (
            f"{', '.join(at_chance)}: the loss is still at chance, ln(1 + K); nothing is learned. Check the "
            "data, lower --lr, or weaken the augmentation (--min-crop-ratio, --jitter-joints)"
        )
    return found


def identical_views_note(clips: ClipSet, args: argparse.Namespace) -> list[str]:
    """Return a note for the log if the two views of some clips are identical, because nothing is random."""
    if not set(args.augmentations) <= {RandomCrop.name}:
        return []
    uncropped = torch.ones(len(clips), dtype=torch.bool)
    if args.augmentations and args.min_crop_ratio < 1.0:
        uncropped = clips.num_frames.cpu() <= args.min_crop_frames
    share, shown = uncropped.double().mean().item(), " ".join(["--augmentations", *args.augmentations])
    if share == 0.0:
        return []
    return [
        f"note: {shown} leaves the two views of {100.0 * share:.0f}% of the clips identical; add an "
        "augmentation, or lower --min-crop-frames or --min-crop-ratio"
    ]
