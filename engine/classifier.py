"""Training a classifier on labels: what the linear probe and fine-tuning share."""

from __future__ import annotations

import argparse
import hashlib
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from options.parser import spelled
from utils.errors import UserError

from .checkpoint import SAVE_MINUTES, RollingCheckpoint, checkpoint_errors, load_checkpoint, save_checkpoint
from .device import memory_metrics
from .evaluation import Evaluation
from .log import RunLog
from .optimization import GuardedOptimizer, learning_rate, set_learning_rate
from .randomness import WEIGHTS, generator
from .report import numbers_in_errors
from .signals import StopRequest

# Flags that must have the same value when a training is resumed.
CLASSIFIER_FLAGS = (
    "mode",
    "pretrained",
    "dataset",
    "protocol",
    "finetune_skeleton_representation",
    "label_fraction",
    "label_sampling",
    "label_seed",
    "cached_crops",
    "batch_size",
    "optimizer",
    "lr",
    "schedule",
    "cos",
    "momentum",
    "weight_decay",
)


def fingerprint(module: nn.Module) -> str:
    """Return a digest of all weights and buffers, to verify that a frozen module did not change."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def topk_accuracy(logits: Tensor, labels: Tensor, ks: tuple[int, ...] = (1, 5)) -> dict[str, float]:
    """Return top-k accuracies in percent as ``{"top1": ..., "top5": ...}``.

    With fewer than k classes, k is the number of classes.
    """
    best = logits.topk(min(max(ks), logits.shape[1]), dim=1).indices  # N x K
    hit = best == labels[:, None]
    return {f"top{k}": 100.0 * hit[:, :k].any(dim=1).float().mean().item() for k in ks}


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
    return torch.optim.SGD(
        module.parameters(), args.lr, momentum=args.momentum, weight_decay=args.weight_decay, fused=True
    )


class ClassifierTraining(ABC):
    """The training of a linear classifier, alone or with the encoders, and its position.

    ``epoch`` and ``step`` come next; ``history`` contains the accuracies of each finished epoch.
    Subclasses define how an epoch is trained and how validation clips are classified.

    Args:
        run: encoders, clips and the folder of the checkpoint.
        args: the flags of ``action_classification.py``.
    """

    kind: str  # name in checkpoints and TensorBoard
    file: str  # name of the checkpoint in the folder of the run
    keep_optimizer = True  # in the checkpoint of a finished training, so that epochs can be added

    def __init__(self, run: Evaluation, args: argparse.Namespace) -> None:
        encoders, device = run.extractor.encoders, run.extractor.device
        self.run, self.args = run, args
        self.encoder_sha256 = fingerprint(encoders)  # before training
        self.head = linear_head(encoders.num_features, run.train.num_classes, run.seed).to(device)
        self.module = self.trained_module()
        self.optimizer = GuardedOptimizer(make_optimizer(self.module, args), "off", device)
        self.epoch, self.step = args.start_epoch, 0
        self.history: list[dict[str, float]] = []

    @abstractmethod
    def trained_module(self) -> nn.Module:
        """Return the module to train, which contains ``head``."""

    @abstractmethod
    def train_epoch(self, stop: StopRequest, rolling: RollingCheckpoint) -> float:
        """Train from ``step`` to the end of the epoch and return the mean loss.

        If ``stop`` is requested the training may end at an earlier ``step``, otherwise ``step`` is 0
        afterwards. ``rolling`` may be saved between steps.
        """

    @abstractmethod
    def val_logits(self) -> Tensor:
        """Return the logits ``(N, C)`` of the center crops of all validation clips."""

    def train(self, log: RunLog) -> bool:
        """Train to the last epoch, with an evaluation after each epoch.

        The checkpoint is saved at a fixed interval and at the end.

        Returns:
            False if a stop was requested before the end of the last epoch.
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
                accuracy = topk_accuracy(self.val_logits(), labels)
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
            print(f"stopped in epoch {self.epoch}, step {self.step}; --resume auto continues from there")
        return self.epoch == args.epochs

    def flags(self) -> dict[str, Any]:
        """Return the flags that determine the training."""
        return {name: getattr(self.args, name) for name in CLASSIFIER_FLAGS}

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
            "flags": self.flags(),
            "state_dict": self.module.state_dict(),
            "optimizer": self.optimizer.optimizer.state_dict() if with_optimizer else {},
        }

    def restore(self, path: Path, checkpoint: dict) -> None:
        """Continue from ``checkpoint``; raises ``UserError`` if it belongs to another training."""
        with checkpoint_errors(path):
            self.check_same_training(path, checkpoint)
            self.module.load_state_dict(checkpoint["state_dict"])
            if checkpoint["optimizer"]:
                self.optimizer.optimizer.load_state_dict(checkpoint["optimizer"])
            self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
            self.history = checkpoint["history"]
        print(f"resumed {path}: epoch {self.epoch}, step {self.step}")

    def check_same_training(self, path: Path, checkpoint: dict) -> None:
        """Raise ``UserError`` if flags or encoders differ from those of the training that is resumed."""
        stored = checkpoint["flags"]
        for name, value in self.flags().items():
            if stored.get(name) != value:
                raise UserError(
                    f"{spelled(name, value, 'finetune-dataset')}, but {path} was trained with "
                    f"{spelled(name, stored.get(name), 'finetune-dataset')}: use the same value, or choose "
                    "another --output-dir to start over"
                )
        if checkpoint["encoder_sha256"] != self.encoder_sha256:
            raise UserError(
                f"{path} was trained on a different encoder; use the same --pretrained, --seed and sizes"
            )

    def results(self) -> dict[str, Any]:
        """Return the accuracies of the best and of the last epoch.

        They are ``{"best": {"top1": ..., "top5": ..., "epoch": ...}, "last": ...}``.
        """
        best = max(range(len(self.history)), key=lambda i: self.history[i]["top1"])
        first = self.epoch - len(self.history)
        return {
            "best": {**self.history[best], "epoch": first + best},
            "last": {**self.history[-1], "epoch": self.epoch - 1},
        }


def find_resume(
    method: type[ClassifierTraining], args: argparse.Namespace, folder: Path
) -> tuple[Path, dict] | None:
    """Return the checkpoint that ``--resume`` refers to: its path and content.

    ``auto`` is the checkpoint in ``folder``; None if there is none, so that the same command starts a
    training and resumes it.

    Raises:
        UserError: the checkpoint is of another kind, seed or number of epochs.
    """
    path = folder / method.file if args.resume == "auto" else Path(args.resume)
    if args.resume == "auto" and not path.exists():
        print(f"--resume auto: no {path.name} in {folder} yet; starting a new run")
        return None
    checkpoint = load_checkpoint(path)
    if checkpoint.get("kind") != method.kind:
        raise UserError(f"--resume {path}: not a {method.kind} checkpoint")
    with checkpoint_errors(path):
        seed, epoch, optimizer = (checkpoint[name] for name in ("seed", "epoch", "optimizer"))
    if args.seed is not None and args.seed != seed:
        raise UserError(f"{path} was trained with --seed {seed}: use the same value or omit the flag")
    if epoch > args.epochs:
        raise UserError(f"{path} has finished {epoch} epochs, more than --epochs {args.epochs}")
    if epoch < args.epochs and not optimizer:
        raise UserError(
            f"{path} has finished after {epoch} epochs and has no optimizer state: start over with another "
            "--output-dir"
        )
    return path, checkpoint


def report_epoch(training: ClassifierTraining, metrics: dict[str, float]) -> None:
    """Print the epoch that has just finished, if it is the last one or due by ``--print-freq``."""
    epoch, epochs = training.epoch - 1, training.args.epochs
    if epoch % training.args.print_freq == 0 or epoch == epochs - 1:
        print(
            f"epoch {epoch:3d}/{epochs}  loss {metrics['loss']:.4f}  top-1 {metrics['top1']:.2f}%  "
            f"top-5 {metrics['top5']:.2f}%  lr {metrics['learning_rate']:.4g}  {metrics['seconds']:.2f} s",
            flush=True,
        )
