"""Training a classifier on labels: linear probe, fine-tuning and supervised training (paper section 4.3)."""

from __future__ import annotations

import argparse
import hashlib
import time
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataset.batches import prefetch
from options.parser import spelled
from utils.errors import UserError

from .checkpoint import SAVE_MINUTES, RollingCheckpoint, checkpoint_errors, load_checkpoint, save_checkpoint
from .device import memory_metrics
from .encoders import FINE_TUNING
from .evaluation import Evaluation, earlier_file
from .features import TrainingFeatures, random_crops
from .log import RunLog, position_text, step_bar
from .optimization import (
    GuardedOptimizer,
    learning_rate,
    load_optimizer,
    make_sgd,
    schedule_note,
    set_learning_rate,
    sync_interval,
)
from .randomness import DROPOUT, WEIGHTS, generator, seed_globally
from .report import FREE_FLAGS, numbers_in_errors
from .retrieve import mean_class_accuracy
from .signals import StopRequest

PROBE_FILE, FINETUNE_FILE = "probe_last.pth.tar", "finetune_last.pth.tar"

RESUME_FLAGS = FREE_FLAGS | {"epochs", "start_epoch", "data_root"}  # that may change in a resumed training


def fingerprint(module: nn.Module) -> str:
    """Return a digest of all weights and buffers, to verify that a frozen module did not change."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def accuracies(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return ``{"top1": ..., "top5": ..., "mean_class": ...}`` in percent.

    With fewer than five classes, top-5 is 100%. Mean class accuracy is the mean of the classes' top-1.
    """
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # N x 5
    hit = best == labels[:, None]
    top = {f"top{k}": 100.0 * hit[:, :k].any(dim=1).float().mean().item() for k in (1, 5)}
    return {**top, "mean_class": mean_class_accuracy(best[:, 0], labels)}


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return the weight ``(C,)`` of each class in the loss: inverse to its number of clips, on average 1.

    The average is over the clips. Classes without a clip have weight 0.
    """
    counts = labels.bincount(minlength=num_classes)
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), 0.0)


def linear_head(num_features: int, num_classes: int, seed: int) -> nn.Linear:
    """Build a linear classifier with weights sampled from N(0, 0.01) and zero bias."""
    head = nn.Linear(num_features, num_classes)
    with torch.no_grad():
        head.weight.normal_(0.0, 0.01, generator=generator(seed, WEIGHTS, 1))
        head.bias.zero_()
    return head


def make_optimizer(module: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """Build the ``--optimizer`` of ``module``; its learning rate is set at the start of every epoch."""
    if args.optimizer == "adam":
        return torch.optim.Adam(module.parameters(), args.lr, weight_decay=args.weight_decay, fused=True)
    return make_sgd(module.parameters(), args.lr, args.momentum, args.weight_decay)


class ClassifierTraining(ABC):
    """The training of a linear classifier, alone or with the encoders, and its position.

    ``epoch`` and ``step`` come next; ``history`` contains the accuracies of each finished epoch.
    Subclasses define what is trained, how, and how validation clips are classified.
    """

    kind: str  # name in checkpoints and TensorBoard
    file: str  # name of the checkpoint in the folder of the run
    keep_optimizer = True  # in the checkpoint of a finished training, so that epochs can be added

    def __init__(self, run: Evaluation) -> None:
        encoders, device = run.extractor.encoders, run.extractor.device
        self.run, self.args = run, run.args
        self.encoder_sha256 = fingerprint(encoders)  # before training
        self.head = linear_head(encoders.num_features, run.train.num_classes, run.seed).to(device)
        self.module = self.trained_module()
        self.class_weights = None
        if run.args.class_weights:
            self.class_weights = class_weights(run.train.labels, run.train.num_classes).to(device)
        self.optimizer = GuardedOptimizer(make_optimizer(self.module, run.args), "off", device)
        self.epoch, self.step = run.args.start_epoch, 0
        self.history: list[dict[str, float]] = []

    def trained_module(self) -> nn.Module:
        """Return the module to train: ``head``, or a module that contains it."""
        return self.head

    @abstractmethod
    def train_epoch(self, stop: StopRequest, rolling: RollingCheckpoint) -> float:
        """Train from ``step`` to the end of the epoch and return the mean loss.

        If ``stop`` is requested the training may end at an earlier ``step``, otherwise ``step`` is 0
        afterwards. ``rolling`` may be saved between steps.
        """

    @property
    def val_features(self) -> Tensor:
        """Features ``(N, D)`` of the center crops of all validation clips."""
        return self.run.extractor.center_crop_features(self.run.val, "validation features")

    @torch.no_grad()
    def val_logits(self) -> Tensor:
        """Return the logits ``(N, C)`` of the validation clips, in evaluation mode."""
        self.module.eval()
        return self.head(self.val_features)

    def train(self, log: RunLog) -> bool:
        """Train to the last epoch, evaluate after each one, and save at a fixed interval and at the end.

        Returns False if a stop was requested before the end of the last epoch.
        """
        args, path = self.args, self.run.folder / self.file
        labels = self.run.val.labels.to(self.run.extractor.device)
        rolling = RollingCheckpoint(path, SAVE_MINUTES)
        with StopRequest() as stop:
            while self.epoch < args.epochs and not stop.requested:
                start = time.monotonic()
                rate = learning_rate(args.lr, self.epoch, args.epochs, args.schedule, args.cos)
                set_learning_rate(self.optimizer.optimizer, rate)
                loss = self.train_epoch(stop, rolling)
                if self.step > 0:  # stopped within the epoch
                    break
                accuracy = accuracies(self.val_logits(), labels)
                metrics = {
                    "loss": loss,
                    "learning_rate": rate,
                    **accuracy,
                    "seconds": time.monotonic() - start,
                }
                metrics |= memory_metrics(self.run.extractor.device)
                log.epoch(self.kind, self.epoch, metrics)
                self.history.append(accuracy)
                self.epoch += 1
                rolling.save_if_due(self.state)
                report_epoch(self, metrics)
            with numbers_in_errors(self.results() if self.history else {}):
                save_checkpoint(path, self.state())
        if self.epoch < args.epochs:
            print(f"stopped in {position_text(self.epoch, self.step)}; --resume auto continues from there")
        return self.epoch == args.epochs

    def state(self) -> dict:
        """Return the content of a checkpoint."""
        with_optimizer = self.keep_optimizer or self.epoch < self.args.epochs
        return {
            "kind": self.kind,
            "epoch": self.epoch,
            "step": self.step,
            "seed": self.run.seed,
            "history": self.history,
            "encoder_sha256": self.encoder_sha256,
            "flags": vars(self.args),
            "encoders": self.run.extractor.encoders.description(),
            "class_names": list(self.run.train.class_names),
            "normalized": self.run.train.normalized,
            "state_dict": self.module.state_dict(),
            "optimizer": self.optimizer.optimizer.state_dict() if with_optimizer else {},
        }

    def restore(self, path: Path, checkpoint: dict) -> None:
        """Continue from ``checkpoint``; raises ``UserError`` if it belongs to another training."""
        with checkpoint_errors(path):
            self.check_same_training(path, checkpoint)
            self.module.load_state_dict(checkpoint["state_dict"])
            if checkpoint["optimizer"]:
                load_optimizer(self.optimizer.optimizer, checkpoint["optimizer"])
            self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
            self.history = checkpoint["history"]
        print(f"resumed {path}: {position_text(self.epoch, self.step)}")
        for note in schedule_note(self.args, checkpoint["flags"], self.epoch):
            print(note)

    def check_same_training(self, path: Path, checkpoint: dict) -> None:
        """Raise ``UserError`` if flags or encoders differ from those of the training that is resumed."""
        given = vars(self.run.config)
        for name, stored in {**checkpoint["flags"], "seed": checkpoint["seed"]}.items():
            if name not in RESUME_FLAGS and stored != given.get(name):
                raise UserError(
                    f"{spelled(name, given.get(name), 'finetune-dataset')}, but {path} was trained with "
                    f"{spelled(name, stored, 'finetune-dataset')}: use the same value, or choose another "
                    "--output-dir to start over"
                )
        if checkpoint["encoder_sha256"] != self.encoder_sha256:
            raise UserError(f"{path} was trained on a different encoder; use the same --pretrained and sizes")

    def results(self) -> dict[str, Any]:
        """Return ``accuracies`` and ``"epoch"`` of the ``"best"`` and of the ``"last"`` epoch."""
        best = max(range(len(self.history)), key=lambda i: self.history[i]["top1"])
        first = self.epoch - len(self.history)
        return {
            "best": {**self.history[best], "epoch": first + best},
            "last": {**self.history[-1], "epoch": self.epoch - 1},
        }


class LinearProbe(ClassifierTraining):
    """The training of a linear classifier on frozen encoders.

    The features of all clips are computed once per epoch, before its steps; the arithmetic is that of running
    encoders and classifier on each batch. A stop waits for the end of the epoch.
    """

    kind, file = "probe", PROBE_FILE

    def __init__(self, run: Evaluation) -> None:
        super().__init__(run)
        self.epoch_features = TrainingFeatures(run.extractor, run.train, run.seed, run.args.cached_crops)

    def train_epoch(self, stop: StopRequest, rolling: RollingCheckpoint) -> float:
        """Train the classifier on one epoch's features and return the mean loss."""
        features, labels = self.epoch_features(self.epoch)
        total = torch.zeros((), device=features.device)
        batches = zip(features.split(self.args.batch_size), labels.split(self.args.batch_size))
        for step, (x, y) in enumerate(batches):
            loss = F.cross_entropy(self.head(x), y, self.class_weights)
            self.optimizer.step(loss, step)
            total += loss.detach() * len(y)
        if (nonfinite := self.optimizer.first_nonfinite_step()) is not None:
            raise UserError(
                f"non-finite loss of the linear probe in {position_text(self.epoch, nonfinite)}: lower --lr, "
                "or inspect the features (action_retrieval.py --save-features)"
            )
        return total.item() / len(labels)

    @cached_property
    def val_features(self) -> Tensor:
        """Features ``(N, D)`` of the center crops of all validation clips, which do not change."""
        return super().val_features

    def results(self) -> dict[str, Any]:
        """Return the accuracies, after verifying that the frozen encoders did not change."""
        after = fingerprint(self.run.extractor.encoders)
        assert after == self.encoder_sha256, "the frozen encoder changed"
        return {"cached_crops": self.args.cached_crops, **super().results(), "encoder_sha256": after}


class FineTuning(ClassifierTraining):
    """The training of encoders, pretrained or random, and classifier. A stop ends it after any step."""

    kind, file = FINE_TUNING, FINETUNE_FILE
    keep_optimizer = False  # the state of Adam is two thirds of the file

    def trained_module(self) -> nn.Module:
        """Return encoders and classifier."""
        return nn.ModuleDict({"encoders": self.run.extractor.encoders, "head": self.head})

    def train_epoch(self, stop: StopRequest, rolling: RollingCheckpoint) -> float:
        """Train until the end of the epoch or until a stop is requested; returns the mean loss.

        Checks that make the host wait for a GPU run once per ``sync_interval`` steps.
        """
        run, extractor, epoch = self.run, self.run.extractor, self.epoch
        num_frames = extractor.encoders.num_frames
        batches, make_view = random_crops(run.train, self.args.batch_size, num_frames, run.seed, epoch)
        total, count = torch.zeros((), device=extractor.device), 0
        sync_every = sync_interval(extractor.device)
        self.module.train()
        with step_bar(epoch, len(batches), self.step) as bar:
            for view in prefetch(make_view, range(self.step, len(batches)), extractor.workers):
                index = batches[self.step]
                seed_globally(run.seed, DROPOUT, epoch, self.step)
                labels = run.train.labels[index].to(extractor.device, non_blocking=True)
                logits = self.head(extractor.features(view))
                loss = F.cross_entropy(logits, labels, self.class_weights)
                self.optimizer.step(loss, self.step)
                total += loss.detach() * len(index)
                count += len(index)
                self.step += 1
                bar.update()
                if self.step % sync_every and self.step < len(batches) and not stop.requested:
                    continue
                self.optimizer.check(epoch, run.train, batches, run.folder, self.state)
                if self.step < len(batches):
                    rolling.save_if_due(self.state)
                if stop.requested:
                    break
        if self.step == len(batches):
            self.step = 0
        return total.item() / max(count, 1)


def training_to_resume(
    method: type[ClassifierTraining], args: argparse.Namespace
) -> tuple[Path, dict] | None:
    """Return the path and the content of the checkpoint that ``--resume`` refers to; None to start anew.

    ``auto`` is the checkpoint in the folder of the results, if there is one. Raises ``UserError`` if the
    checkpoint is of another kind or cannot be trained to ``--epochs``.
    """
    if args.resume is None:
        return None
    path = Path(args.resume)
    if args.resume == "auto":
        found = earlier_file(args, args.mode, method.file)
        if found is None:
            print(f"--resume auto: no {method.file} of this evaluation yet; starting a new run")
            return None
        path = found
    checkpoint = load_checkpoint(path)
    if checkpoint.get("kind") != method.kind:
        raise UserError(f"--resume {path}: not a {method.kind} checkpoint")
    with checkpoint_errors(path):
        checkpoint |= {name: int(checkpoint[name]) for name in ("seed", "epoch", "step")}
        finished, optimizer = checkpoint["epoch"], checkpoint["optimizer"]
    if finished > args.epochs or (finished < args.epochs and not optimizer):
        problem = "has no optimizer state" if finished < args.epochs else f"--epochs is {args.epochs}"
        raise UserError(
            f"{path} has finished {finished} epochs and {problem}: start over with another --output-dir"
        )
    return path, checkpoint


def report_epoch(training: ClassifierTraining, metrics: dict[str, float]) -> None:
    """Print the epoch that has just finished, if it is the last one or due by ``--print-freq``."""
    epoch, epochs = training.epoch, training.args.epochs
    if epoch % training.args.print_freq == 0 or epoch == epochs:
        print(
            f"epoch {epoch:3d}/{epochs}  loss {metrics['loss']:.4f}  top-1 {metrics['top1']:.2f}%  "
            f"top-5 {metrics['top5']:.2f}%  lr {metrics['learning_rate']:.4g}  {metrics['seconds']:.2f} s",
            flush=True,
        )
