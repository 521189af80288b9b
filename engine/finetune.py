"""Fine-tuning: encoder and linear classifier trained together on labels (paper section 4.3).

From a pretrained encoder (Tables 2, 4 and 7) or from random weights (supervised only).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dataset.batches import prefetch, shuffled_batches
from models.representations import lay_out
from dataset.views import classifier_view

from .checkpoint import SAVE_MINUTES, RollingCheckpoint, save_checkpoint
from .classifier import Training, linear_head, new_training, report_epoch, topk_accuracy
from .optimization import GuardedOptimizer, sync_interval
from .evaluation import Evaluation
from .features import validation_features
from .randomness import DROPOUT, ORDER, VIEWS, generator, seed_globally
from .optimization import learning_rate, set_learning_rate
from .signals import StopRequest

FINETUNE_FILE = "finetune_last.pth.tar"  # beside results.json


def batch_loss(run: Evaluation, head: nn.Linear, view: Tensor, index: Tensor) -> Tensor:
    """Mean cross-entropy of a batch; ``view`` (N, T, V, 3, M) of the clips ``index`` (N,)."""
    views = lay_out(view.to(run.device, non_blocking=True), run.encoders.representations)
    labels = run.train.labels[index].to(run.device, non_blocking=True)
    return F.cross_entropy(head(run.encode(views)), labels)


def train_epoch(
    run: Evaluation, training: Training, stepper: GuardedOptimizer, args: argparse.Namespace,
    stop: StopRequest, rolling: RollingCheckpoint,
) -> float:
    """Train from ``training.step`` to the end of the epoch, or until a stop is requested.

    Returns the mean loss of what it trained on. The crops are those that the linear probe draws.
    """
    epoch, seed = training.epoch, training.seed
    order = generator(seed, ORDER, epoch)
    batches = shuffled_batches(len(run.train), args.batch_size, order, drop_last=False)

    def draw(step: int) -> Tensor:
        source = generator(seed, VIEWS, epoch, step)
        return classifier_view(run.encoders.num_frames).of(run.train, batches[step], source)

    views = prefetch(draw, range(training.step, len(batches)), args.workers)
    total, count = torch.zeros((), device=run.device), 0
    sync_every = sync_interval(run.device)
    training.module.train()
    bar = tqdm(
        total=len(batches), initial=training.step, desc=f"epoch {epoch}", unit="step", leave=False,
        disable=None, dynamic_ncols=True,
    )
    with bar:
        for view in views:
            index = batches[training.step]
            seed_globally(seed, DROPOUT, epoch, training.step)
            loss = batch_loss(run, training.module["head"], view, index)
            stepper.step(loss, training.step)
            total += loss.detach() * len(index)
            count += len(index)
            training.step += 1
            bar.update()
            if training.step % sync_every == 0 or training.step == len(batches) or stop.requested:
                stepper.check(epoch, run.train, batches, run.folder, training.state)
                rolling.save_if_due(training.state)
            if stop.requested:
                break
    return total.item() / max(count, 1)


@torch.no_grad()
def val_logits(run: Evaluation, training: Training, workers: int) -> Tensor:
    """Logits (N, C) of the centre crops of the validation clips, in evaluation mode."""
    training.module.eval()
    features = validation_features(run.encode, run.encoders, run.val, run.device, workers)
    return training.module["head"](features)


def finetune(
    run: Evaluation, args: argparse.Namespace, resume_from: tuple[dict, Path] | None = None
) -> dict | None:
    """Train encoder and head, measured after every epoch: accuracies of the best and the last epoch.

    Returns None where the run was asked to stop, after any step; its checkpoint in ``run.folder`` is
    there to resume, and comes back as ``resume_from``, with its path. A run that ends keeps the
    weights of the last epoch there.
    """
    head = linear_head(run.encoders.num_features, run.train.num_classes, run.seed).to(run.device)
    module = nn.ModuleDict({"encoders": run.encoders, "head": head})
    training = new_training("fine-tuning", module, run, args)
    if resume_from is not None:
        training.restore(*resume_from)
    stepper = GuardedOptimizer(training.optimizer, args.amp, run.device)
    path = run.folder / FINETUNE_FILE
    rolling = RollingCheckpoint(path, SAVE_MINUTES)
    with SummaryWriter(str(run.folder), purge_step=training.epoch) as writer, StopRequest() as stop:
        while training.epoch < args.epochs and not stop.requested:
            start = time.monotonic()
            rate = learning_rate(args.lr, training.epoch, args.epochs, args.schedule, args.cos)
            set_learning_rate(training.optimizer, rate)
            loss = train_epoch(run, training, stepper, args, stop, rolling)
            if training.step * args.batch_size < len(run.train):  # stopped in the middle
                break
            logits = val_logits(run, training, args.workers)
            training.history.append(topk_accuracy(logits, run.val.labels.to(run.device)))
            report_epoch(training, args, loss, rate, time.monotonic() - start, writer)
            training.epoch, training.step = training.epoch + 1, 0
        done = training.epoch == args.epochs
        save_checkpoint(path, training.state(with_optimizer=not done))
    if not done:
        print(
            f"stopped in epoch {training.epoch}, step {training.step}; --resume auto goes on from there"
        )
        return None
    run.predicted = val_logits(run, training, args.workers).argmax(dim=1)
    return training.summary()
