"""The linear probe: a linear classifier on the features of frozen encoders (paper section 4.3)."""

from __future__ import annotations

import argparse
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.errors import UserError

from .checkpoint import RollingCheckpoint
from .classifier import ClassifierTraining, fingerprint
from .evaluation import Evaluation
from .features import training_features
from .signals import StopRequest

PROBE_FILE = "probe_last.pth.tar"


class LinearProbe(ClassifierTraining):
    """The training of a linear classifier on frozen encoders.

    The features of all clips are computed once per epoch, before the steps of the classifier. The
    arithmetic is that of running encoders and classifier on each batch. A stop waits for the end of
    the epoch.
    """

    kind, file = "probe", PROBE_FILE

    def __init__(self, run: Evaluation, args: argparse.Namespace) -> None:
        super().__init__(run, args)
        self.epoch_features = training_features(run.extractor, run.train, run.seed, args.cached_crops)

    def trained_module(self) -> nn.Module:
        """Return the classifier."""
        return self.head

    def train_epoch(self, stop: StopRequest, rolling: RollingCheckpoint) -> float:
        """Train the classifier on one epoch's features and return the mean loss."""
        features, labels = self.epoch_features(self.epoch)
        total = torch.zeros((), device=features.device)
        batches = zip(features.split(self.args.batch_size), labels.split(self.args.batch_size))
        for step, (x, y) in enumerate(batches):
            loss = F.cross_entropy(self.head(x), y)
            self.optimizer.step(loss, step)
            total += loss.detach() * len(y)
        if (nonfinite := self.optimizer.first_nonfinite_step()) is not None:
            raise UserError(
                f"non-finite loss of the linear probe in epoch {self.epoch}, step {nonfinite}: lower --lr, "
                "or inspect the features (action_retrieval.py --save-features)"
            )
        return total.item() / len(labels)

    @cached_property
    def val_features(self) -> Tensor:
        """Features ``(N, D)`` of the validation clips, which do not change."""
        return self.run.extractor.center_crop_features(self.run.val, "validation features")

    @torch.no_grad()
    def val_logits(self) -> Tensor:
        """Return the logits ``(N, C)`` of the validation clips."""
        return self.head(self.val_features)

    def results(self) -> dict[str, Any]:
        """Return the accuracies, after verifying that the frozen encoders did not change."""
        after = fingerprint(self.run.extractor.encoders)
        if after != self.encoder_sha256:
            raise RuntimeError(f"the frozen encoder changed: sha256 {self.encoder_sha256}, now {after}")
        return {"cached_crops": self.args.cached_crops, **super().results(), "encoder_sha256": after}
