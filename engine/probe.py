"""The linear probe: a linear classifier on the features of a frozen encoder (paper section 4.3)."""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dataset.clips import ClipSet
from options.errors import UserError

from .checkpoint import load_checkpoint, save_checkpoint
from .features import training_features, validation_features
from .randomness import WEIGHTS, generator
from .schedule import learning_rate, set_learning_rate
from .stop import StopRequest


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


PROBE_FILE = "probe_last.pth.tar"  # beside results.json

# What a resumed probe must share with the one it goes on from.
PROBE_FLAGS = ("pretrained", "dataset", "protocol", "batch_size", "lr", "schedule", "cos", "momentum",
               "weight_decay", "finetune_skeleton_representation", "cached_crops")


@dataclass
class Probe:
    """The head under training, and where its training stands: the next epoch to do."""

    head: nn.Linear
    optimizer: torch.optim.Optimizer
    seed: int
    encoder_sha256: str
    flags: dict  # those of PROBE_FLAGS
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)  # accuracies of each epoch

    def state(self) -> dict:
        return {
            "kind": "probe", "epoch": self.epoch, "seed": self.seed, "history": self.history,
            "encoder_sha256": self.encoder_sha256, "flags": self.flags, "state_dict": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, checkpoint: dict, path: Path) -> None:
        """Go on from ``checkpoint``; refused where it is of another probe."""
        for name, value in self.flags.items():
            if checkpoint["flags"].get(name) != value:
                flag = "--" + {"dataset": "finetune-dataset"}.get(name, name.replace("_", "-"))
                raise UserError(
                    f"{flag} is {value}, {path} was trained with {checkpoint['flags'].get(name)}: give "
                    "the same, or begin anew in another --output-dir"
                )
        if checkpoint["encoder_sha256"] != self.encoder_sha256:
            raise UserError(
                f"{path} is of another encoder; give the --pretrained, --seed and sizes it had"
            )
        self.head.load_state_dict(checkpoint["state_dict"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.epoch, self.history = checkpoint["epoch"], checkpoint["history"]
        print(f"resumed {path}: epoch {self.epoch}")


def load_probe(resume: str, folder: Path, seed: int | None, epochs: int) -> tuple[dict, Path]:
    """The probe checkpoint that ``--resume`` means; ``auto`` is the one in ``folder``."""
    path = folder / PROBE_FILE if resume == "auto" else Path(resume)
    checkpoint = load_checkpoint(path)
    if checkpoint.get("kind") != "probe":
        raise UserError(f"--resume {path}: not a checkpoint of a linear probe")
    if seed is not None and seed != checkpoint["seed"]:
        raise UserError(f"{path} was trained with --seed {checkpoint['seed']}: give the same or none")
    if checkpoint["epoch"] > epochs:
        raise UserError(f"{path} has {checkpoint['epoch']} epochs behind it, more than --epochs {epochs}")
    return checkpoint, path


def train_epoch(
    probe: Probe, features: Tensor, labels: Tensor, batch_size: int
) -> float:
    """One pass of the head over the epoch's features; returns the mean loss."""
    total = torch.zeros((), device=features.device)
    for x, y in zip(features.split(batch_size), labels.split(batch_size)):
        loss = F.cross_entropy(probe.head(x), y)
        probe.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        probe.optimizer.step()
        total += loss.detach() * len(y)
    mean_loss = total.item() / len(labels)
    if not math.isfinite(mean_loss):
        raise UserError(f"the probe's loss is {mean_loss} in epoch {probe.epoch}; lower --lr")
    return mean_loss


def linear_probe(
    encoders: nn.Module, encode: nn.Module, train: ClipSet, val: ClipSet,
    args: argparse.Namespace, seed: int, device: torch.device, folder: Path,
    resume_from: tuple[dict, Path] | None = None,
) -> dict | None:
    """Train the head and measure it every epoch: accuracies of the best and the last epoch.

    The encoder is frozen, so one epoch's features are computed together and the head then takes
    its steps on them: the same arithmetic as a pass of encoder and head per batch. Returns None
    where the run was asked to stop; its checkpoint in ``folder`` is there to resume, and comes
    back as ``resume_from``, with its path.
    """
    head = linear_head(encoders.num_features, train.num_classes, seed).to(device)
    optimizer = torch.optim.SGD(
        head.parameters(), args.lr, momentum=args.momentum, weight_decay=args.weight_decay
    )
    probe = Probe(
        head, optimizer, seed, fingerprint(encoders),
        flags={name: getattr(args, name) for name in PROBE_FLAGS}, epoch=args.start_epoch,
    )
    if resume_from is not None:
        probe.restore(*resume_from)
    epoch_features = training_features(
        encode, encoders, train, seed, device, args.workers, args.cached_crops
    )
    val_features = validation_features(encode, encoders, val, device, args.workers)
    val_labels = val.labels.to(device)
    bar = tqdm(
        total=args.epochs, initial=probe.epoch, desc="linear probe", leave=False, disable=None,
        unit="epoch", dynamic_ncols=True,
    )
    with SummaryWriter(str(folder), purge_step=probe.epoch) as writer, StopRequest() as stop, bar:
        while probe.epoch < args.epochs and not stop.requested:
            start = time.monotonic()
            rate = learning_rate(args.lr, probe.epoch, args.epochs, args.schedule, args.cos)
            set_learning_rate(optimizer, rate)
            features, labels = epoch_features(probe.epoch)
            loss = train_epoch(probe, features, labels, args.batch_size)
            with torch.no_grad():
                probe.history.append(topk_accuracy(head(val_features), val_labels))
            report_epoch(probe, args, loss, rate, time.monotonic() - start, writer)
            probe.epoch += 1
            bar.update()
    save_checkpoint(folder / PROBE_FILE, probe.state())
    if probe.epoch < args.epochs:
        print(f"stopped before epoch {probe.epoch}; --resume auto goes on from there")
        return None
    return {"cached_crops": args.cached_crops, **summarise(probe, encoders)}


def summarise(probe: Probe, encoders: nn.Module) -> dict:
    """Best and last accuracy, once it is certain that nothing frozen has moved."""
    after = fingerprint(encoders)
    if after != probe.encoder_sha256:
        raise RuntimeError(f"the frozen encoder changed: {probe.encoder_sha256}, now {after}")
    print(f"frozen weights and buffers: sha256 {probe.encoder_sha256} before, {after} after")
    best = max(range(len(probe.history)), key=lambda i: probe.history[i]["top1"])
    first = probe.epoch - len(probe.history)
    return {
        "best": {**probe.history[best], "epoch": first + best},
        "last": {**probe.history[-1], "epoch": probe.epoch - 1},
        "encoder_sha256": after,
    }


def report_epoch(
    probe: Probe, args: argparse.Namespace, loss: float, rate: float, seconds: float,
    writer: SummaryWriter,
) -> None:
    """The scalars of an epoch, and its line where ``--print-freq`` asks for one."""
    epoch, accuracy = probe.epoch, probe.history[-1]
    writer.add_scalar("probe/loss", loss, epoch)
    writer.add_scalar("probe/learning_rate", rate, epoch)
    for name, value in accuracy.items():
        writer.add_scalar(f"probe/{name}", value, epoch)
    if epoch % args.print_freq == 0 or epoch == args.epochs - 1:
        tqdm.write(
            f"epoch {epoch:3d}/{args.epochs}  loss {loss:.4f}  top-1 {accuracy['top1']:.2f}%  "
            f"top-5 {accuracy['top5']:.2f}%  lr {rate:.4g}  {seconds:.2f} s"
        )
