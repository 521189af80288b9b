"""What the training of every classifier shares, the linear probe's and fine-tuning: its state, its
file, accuracy, and what is printed."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from options.errors import UserError

from .checkpoint import load_checkpoint, checkpoint_errors
from .evaluation import Evaluation
from .randomness import WEIGHTS, generator

# What a resumed training must share with the one it goes on from.
CLASSIFIER_FLAGS = (
    "mode", "pretrained", "dataset", "protocol", "finetune_skeleton_representation", "label_fraction",
    "label_sampling", "label_seed", "cached_crops", "batch_size", "optimizer", "lr", "schedule", "cos",
    "momentum", "weight_decay",
)


def fingerprint(module: nn.Module) -> str:
    """A digest of every saved weight and buffer, to show that none of them moved."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def topk_accuracy(logits: Tensor, labels: Tensor, ks: tuple[int, ...] = (1, 5)) -> dict[str, float]:
    """Top-k accuracy in percent, ``{"top1": ..., "top5": ...}``; k at most the number of classes."""
    best = logits.topk(min(max(ks), logits.shape[1]), dim=1).indices  # N x K
    hit = best == labels[:, None]
    return {f"top{k}": 100.0 * hit[:, :k].any(dim=1).float().mean().item() for k in ks}


def linear_head(num_features: int, num_classes: int, seed: int) -> nn.Linear:
    """A linear classifier with weights N(0, 0.01) and no bias at the start."""
    head = nn.Linear(num_features, num_classes)
    with torch.no_grad():
        head.weight.normal_(0.0, 0.01, generator=generator(seed, WEIGHTS, 1))
        head.bias.zero_()
    return head


def make_optimizer(module: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """``--optimizer`` for all of ``module``; the learning rate is set anew in every epoch."""
    if args.optimizer == "adam":
        return torch.optim.Adam(
            module.parameters(), args.lr, weight_decay=args.weight_decay, fused=True
        )
    return torch.optim.SGD(
        module.parameters(), args.lr, momentum=args.momentum, weight_decay=args.weight_decay, fused=True,
    )


@dataclass
class Training:
    """What is trained on labels, and where its training stands: the next step to do."""

    kind: str  # "probe" or "fine-tuning"
    module: nn.Module
    optimizer: torch.optim.Optimizer
    seed: int
    encoder_sha256: str  # of the encoders that it began with
    flags: dict  # those of CLASSIFIER_FLAGS
    epoch: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)  # accuracies of each epoch

    def state(self, with_optimizer: bool = True) -> dict:
        """For a checkpoint; a training that has ended needs no optimizer, two thirds of Adam's file."""
        return {
            "kind": self.kind, "epoch": self.epoch, "step": self.step, "seed": self.seed,
            "history": self.history, "encoder_sha256": self.encoder_sha256, "flags": self.flags,
            "state_dict": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict() if with_optimizer else {},
        }

    def check_same_training(self, flags: dict, encoder_sha256: str, path: Path) -> None:
        """Refuse the checkpoint ``path`` where its flags or its encoder are of another training."""
        for name, value in self.flags.items():
            if flags.get(name) != value:
                flag = "--" + {"dataset": "finetune-dataset"}.get(name, name.replace("_", "-"))
                raise UserError(
                    f"{flag} is {value}, {path} was trained with {flags.get(name)}: give the same, or "
                    "begin anew in another --output-dir"
                )
        if encoder_sha256 != self.encoder_sha256:
            raise UserError(
                f"{path} is of another encoder; give the --pretrained, --seed and sizes it had"
            )

    def restore(self, checkpoint: dict, path: Path) -> None:
        """Go on from ``checkpoint``; refused where it is of another training."""
        with checkpoint_errors(path):
            self.check_same_training(checkpoint["flags"], checkpoint["encoder_sha256"], path)
            self.module.load_state_dict(checkpoint["state_dict"])
            if checkpoint["optimizer"]:
                self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
            self.history = checkpoint["history"]
        print(f"resumed {path}: epoch {self.epoch}" + (f", step {self.step}" if self.step else ""))

    def summary(self) -> dict:
        """``{"best": {"top1": ..., "top5": ..., "epoch": ...}, "last": ...}``."""
        best = max(range(len(self.history)), key=lambda i: self.history[i]["top1"])
        first = self.epoch - len(self.history)
        return {
            "best": {**self.history[best], "epoch": first + best},
            "last": {**self.history[-1], "epoch": self.epoch - 1},
        }


def new_training(kind: str, module: nn.Module, run: Evaluation, args: argparse.Namespace) -> Training:
    """The training of ``module`` at its start; ``run.encoders`` are as they were loaded."""
    return Training(
        kind, module, make_optimizer(module, args), run.seed, fingerprint(run.encoders),
        flags={name: getattr(args, name) for name in CLASSIFIER_FLAGS}, epoch=args.start_epoch,
    )


def load_training(
    kind: str, resume: str, rolling: Path, seed: int | None, epochs: int
) -> tuple[dict, Path] | None:
    """The checkpoint that ``--resume`` means and its path, for ``Training.restore``.

    ``auto`` is the file ``rolling``; None where there is none yet, so that one command line begins a
    training and goes on with it.
    """
    path = rolling if resume == "auto" else Path(resume)
    if resume == "auto" and not path.exists():
        print(f"--resume auto: no {path.name} in {path.parent} yet, so this run begins anew")
        return None
    checkpoint = load_checkpoint(path)
    if checkpoint.get("kind") != kind:
        raise UserError(f"--resume {path}: not a checkpoint of a {kind}")
    with checkpoint_errors(path):
        stored, behind, optimizer = (checkpoint[name] for name in ("seed", "epoch", "optimizer"))
    if seed is not None and seed != stored:
        raise UserError(f"{path} was trained with --seed {stored}: give the same or none")
    if behind > epochs:
        raise UserError(f"{path} has {behind} epochs behind it, more than --epochs {epochs}")
    if behind < epochs and not optimizer:
        raise UserError(
            f"{path} ended with epoch {behind - 1} and kept no optimizer: begin anew in another "
            "--output-dir"
        )
    return checkpoint, path


def report_epoch(
    training: Training, args: argparse.Namespace, loss: float, rate: float, seconds: float,
    writer: SummaryWriter,
) -> None:
    """The scalars of an epoch, and its line where ``--print-freq`` asks for one."""
    epoch, accuracy = training.epoch, training.history[-1]
    writer.add_scalar(f"{training.kind}/loss", loss, epoch)
    writer.add_scalar(f"{training.kind}/learning_rate", rate, epoch)
    for name, value in accuracy.items():
        writer.add_scalar(f"{training.kind}/{name}", value, epoch)
    if epoch % args.print_freq == 0 or epoch == args.epochs - 1:
        tqdm.write(
            f"epoch {epoch:3d}/{args.epochs}  loss {loss:.4f}  top-1 {accuracy['top1']:.2f}%  "
            f"top-5 {accuracy['top5']:.2f}%  lr {rate:.4g}  {seconds:.2f} s"
        )
