"""The linear probe: a linear classifier on the features of a frozen encoder (paper section 4.3)."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from options.errors import UserError

from .checkpoint import SAVE_MINUTES, RollingCheckpoint, save_checkpoint
from .classifier import (
    Training, fingerprint, linear_head, new_training, report_epoch, topk_accuracy,
)
from .optimization import GuardedOptimizer
from .evaluation import Evaluation
from .features import training_features, validation_features
from .optimization import learning_rate, set_learning_rate
from .signals import StopRequest


PROBE_FILE = "probe_last.pth.tar"  # beside results.json


def train_epoch(
    probe: Training, stepper: GuardedOptimizer, features: Tensor, labels: Tensor, batch_size: int
) -> float:
    """One pass of the head over the epoch's features; returns the mean loss."""
    total = torch.zeros((), device=features.device)
    for step, (x, y) in enumerate(zip(features.split(batch_size), labels.split(batch_size))):
        loss = F.cross_entropy(probe.module(x), y)
        stepper.step(loss, step)
        total += loss.detach() * len(y)
    if (step := stepper.first_nonfinite_step()) is not None:
        raise UserError(
            f"the probe's loss is not finite in epoch {probe.epoch}, step {step}; lower --lr, or look at "
            "the features (action_retrieval.py --save-features)"
        )
    return total.item() / len(labels)


def linear_probe(
    run: Evaluation, args: argparse.Namespace, resume_from: tuple[dict, Path] | None = None
) -> dict | None:
    """Train the head and measure it every epoch: accuracies of the best and the last epoch.

    The encoder is frozen, so one epoch's features are computed together and the head then takes
    its steps on them: the same arithmetic as a pass of encoder and head per batch. Returns None
    where the run was asked to stop; its checkpoint in ``run.folder`` is there to resume, and comes
    back as ``resume_from``, with its path.
    """
    head = linear_head(run.encoders.num_features, run.train.num_classes, run.seed).to(run.device)
    probe = new_training("probe", head, run, args)
    if resume_from is not None:
        probe.restore(*resume_from)
    stepper = GuardedOptimizer(probe.optimizer, "off", run.device)
    epoch_features = training_features(
        run.encode, run.encoders, run.train, run.seed, run.device, args.workers, args.cached_crops
    )
    val_features = validation_features(run.encode, run.encoders, run.val, run.device, args.workers)
    val_labels = run.val.labels.to(run.device)
    rolling = RollingCheckpoint(run.folder / PROBE_FILE, SAVE_MINUTES)
    bar = tqdm(
        total=args.epochs, initial=probe.epoch, desc="linear probe", leave=False, disable=None,
        unit="epoch", dynamic_ncols=True,
    )
    with SummaryWriter(str(run.folder), purge_step=probe.epoch) as writer, StopRequest() as stop, bar:
        while probe.epoch < args.epochs and not stop.requested:
            start = time.monotonic()
            rate = learning_rate(args.lr, probe.epoch, args.epochs, args.schedule, args.cos)
            set_learning_rate(probe.optimizer, rate)
            features, labels = epoch_features(probe.epoch)
            loss = train_epoch(probe, stepper, features, labels, args.batch_size)
            with torch.no_grad():
                probe.history.append(topk_accuracy(head(val_features), val_labels))
            report_epoch(probe, args, loss, rate, time.monotonic() - start, writer)
            probe.epoch += 1
            bar.update()
            rolling.save_if_due(probe.state)
        save_checkpoint(rolling.path, probe.state())
    if probe.epoch < args.epochs:
        print(f"stopped before epoch {probe.epoch}; --resume auto goes on from there")
        return None
    with torch.no_grad():
        run.predicted = head(val_features).argmax(dim=1)
    return {"cached_crops": args.cached_crops, **summarise(probe, run.encoders)}


def summarise(probe: Training, encoders: nn.Module) -> dict:
    """Best and last accuracy, once it is certain that nothing frozen has moved."""
    after = fingerprint(encoders)
    if after != probe.encoder_sha256:
        raise RuntimeError(f"the frozen encoder changed: {probe.encoder_sha256}, now {after}")
    print(f"frozen weights and buffers: sha256 {probe.encoder_sha256} before, {after} after")
    return {**probe.summary(), "encoder_sha256": after}
