"""The one pretraining loop, for intra- and inter-skeleton contrast alike (paper section 3)."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dataset.augment import Augmentation
from dataset.batches import draw_ahead, shuffled_batches
from dataset.clips import ClipSet
from dataset.layout import lay_out
from dataset.views import pretraining_view
from moco.model import MoCo

from .checkpoint import LAST, Rolling, checkpoint_name, save_checkpoint
from .curves import write_epoch, write_hyperparameters
from .descent import Descent, steps_between_looks
from .distributed import Group
from .randomness import DROPOUT, ORDER, VIEWS, generator, seed_globally
from .schedule import learning_rate, set_learning_rate
from .stop import STOPPED, StopRequest


@dataclass
class Run:
    """The state of a pretraining, and where it stands: the next step to do."""

    model: MoCo
    encode: Callable  # the model's encoders, in their precision and on all devices
    descent: Descent
    describe: dict  # what a downstream script needs: representations, sizes, dataset, flags
    seed: int
    group: Group = Group()
    epoch: int = 0
    step: int = 0

    def state(self) -> dict:
        return {
            **self.describe, "seed": self.seed, "epoch": self.epoch, "step": self.step,
            "state_dict": self.model.state_dict(), "optimizer": self.descent.optimizer.state_dict(),
            "scaler": self.descent.scaler.state_dict(),
        }

    def restore(self, checkpoint: dict) -> None:
        self.model.load_state_dict(checkpoint["state_dict"])
        self.descent.optimizer.load_state_dict(checkpoint["optimizer"])
        if checkpoint["scaler"]:  # empty where nothing was scaled
            self.descent.scaler.load_state_dict(checkpoint["scaler"])
        self.seed, self.epoch, self.step = (checkpoint[k] for k in ("seed", "epoch", "step"))


class EpochMetrics:
    """Sums over an epoch's steps, kept on the device until they are asked for."""

    def __init__(self, pairs: list[tuple[str, str]], device: torch.device) -> None:
        self.names = [f"{q.split('-')[0]}->{k.split('-')[0]}" for q, k in pairs]
        self.loss = torch.zeros((), device=device)
        self.sums = torch.zeros(len(pairs), 3, device=device)  # right, positive and negative logits
        self.steps = torch.zeros((), device=device)
        self.clips = 0  # of this process

    def add(self, loss: Tensor, logits: list[Tensor]) -> None:
        """A query is right where its own key, column 0, is nearer than every key of the queue.

        Strictly nearer: of a collapsed encoder, whose keys are all alike, none is right.
        """
        self.loss += loss.detach()
        for sums, x in zip(self.sums, logits):
            positive, negative = x.detach()[:, 0], x.detach()[:, 1:]
            right = positive > negative.amax(dim=1)
            sums += torch.stack([right.float().mean(), positive.mean(), negative.mean()])
        self.steps += 1
        self.clips += logits[0].shape[0]

    def means(self, group: Group) -> tuple[float, dict[str, list[float]]]:
        """Loss, and per (query -> key) pair: contrastive accuracy, positive and negative logit."""
        steps = group.sum(self.steps).clamp(min=1)
        sums = (group.sum(self.sums) / steps).tolist()
        return (group.sum(self.loss) / steps).item(), dict(zip(self.names, sums))


def two_views(
    clips: ClipSet, batches: list[Tensor], augmentation: Augmentation,
    representations: tuple[str, ...], run: Run, device: torch.device, workers: int,
) -> Iterator[tuple[dict, dict]]:
    """Query views and key views of this process's share of the epoch's remaining batches.

    All representations of a clip see the same view, so a pair of them differs in representation
    and in view (section 3.3).
    """

    def draw(step: int) -> tuple[dict, dict]:
        source = generator(run.seed, VIEWS, run.epoch, step)
        share = run.group.share(len(batches[step]))
        views = [pretraining_view(clips, batches[step], augmentation, source, share) for _ in range(2)]
        query, key = (lay_out(view.to(device, non_blocking=True), representations) for view in views)
        return query, key

    return draw_ahead(draw, range(run.step, len(batches)), workers)


def train_epoch(
    run: Run, clips: ClipSet, augmentation: Augmentation, args: argparse.Namespace,
    device: torch.device, stop: StopRequest, rolling: Rolling,
) -> EpochMetrics:
    """Train from ``run.step`` to the end of the epoch, or until a stop is requested.

    What makes the host wait for a GPU (is the loss a number, must the run stop) is asked every
    few steps only.
    """
    representations = tuple(run.describe["representations"])
    order = generator(run.seed, ORDER, run.epoch)
    batches = shuffled_batches(len(clips), args.batch_size, order, drop_last=True)
    views = two_views(clips, batches, augmentation, representations, run, device, args.workers)
    metrics, group = EpochMetrics(run.model.pairs, device), run.group
    between_looks = steps_between_looks(device)
    state = run.state if group.is_main else None
    run.model.train()
    bar = tqdm(
        total=len(batches), initial=run.step, desc=f"epoch {run.epoch}", unit="step",
        leave=False, disable=None if group.is_main else True, dynamic_ncols=True,
    )
    with bar:
        for query, key in views:
            seed_globally(run.seed, DROPOUT, run.epoch, run.step, *([group.rank] if group.rank else []))
            loss, logits = run.model(query, key, encode=run.encode, gather=group.gather)
            run.descent.step(loss, run.step, group.sum)
            metrics.add(loss, logits)
            run.step += 1
            bar.update()
            if run.step % args.print_freq == 0 and not bar.disable:
                bar.set_postfix(loss=f"{(metrics.loss / metrics.steps).item():.3f}")
            if run.step % between_looks and run.step < len(batches):
                continue
            run.descent.check(run.epoch, clips, batches, Path(args.checkpoint_path), state)
            if group.any(stop.requested, device):
                break
            if group.is_main and run.step < len(batches):
                rolling.save_if_due(run.state)
    if run.step == len(batches):
        run.epoch, run.step = run.epoch + 1, 0
    return metrics


def report_epoch(
    loss: float, pairs: dict[str, list[float]], epoch: int, epochs: int, rate: float,
    clips_per_second: float, remaining: float,
) -> None:
    """One line of a finished epoch."""
    shown = "  ".join(f"{name} {100 * values[0]:.1f}%" for name, values in pairs.items())
    print(
        f"epoch {epoch:4d}/{epochs}  loss {loss:.4f}  {shown}  lr {rate:.4g}  "
        f"{clips_per_second:.0f} clips/s  {remaining / 60:.1f} min left", flush=True,
    )


def pretrain(
    run: Run, clips: ClipSet, augmentation: Augmentation, args: argparse.Namespace,
    device: torch.device, show: Callable,
) -> int:
    """Train from where ``run`` stands to ``args.epochs``; returns the exit code.

    A checkpoint is kept every ``args.save_freq`` epochs (epoch 0 first, as the released program
    counts) and after the last. A run that is asked to stop saves in mid-epoch; one that is killed
    has the checkpoint that is written anew every ``args.save_minutes``.
    """
    folder, group = Path(args.checkpoint_path), run.group
    rolling = Rolling(folder / LAST, args.save_minutes)
    began, first_epoch = time.monotonic(), run.epoch
    events = SummaryWriter(str(folder), purge_step=run.epoch) if group.is_main else nullcontext()
    with events as writer, StopRequest() as stop:
        if group.is_main and (run.epoch, run.step) == (args.start_epoch, 0):
            show(writer, clips, augmentation, run.seed)
        while run.epoch < args.epochs:
            epoch, start = run.epoch, time.monotonic()
            rate = learning_rate(args.lr, epoch, args.epochs, args.schedule, args.cos)
            set_learning_rate(run.descent.optimizer, rate)
            metrics = train_epoch(run, clips, augmentation, args, device, stop, rolling)
            if run.epoch == epoch:  # stopped in the middle
                break
            loss, pairs = metrics.means(group)
            if group.is_main:
                speed = group.size * metrics.clips / max(time.monotonic() - start, 1e-9)
                remaining = (time.monotonic() - began) / (run.epoch - first_epoch) * (args.epochs - run.epoch)
                report_epoch(loss, pairs, epoch, args.epochs, rate, speed, remaining)
                write_epoch(writer, epoch, loss, pairs, rate, speed)
                if epoch % args.save_freq == 0 or run.epoch == args.epochs:
                    save_checkpoint(folder / checkpoint_name(epoch), run.state())
            if group.any(stop.requested, device):
                break
        if run.epoch < args.epochs:  # still under StopRequest: a second SIGTERM must not cut the save
            if group.is_main:
                save_checkpoint(folder / LAST, run.state())
            print(f"stopped in epoch {run.epoch}, step {run.step}; --resume auto goes on from there")
            return STOPPED
        if group.is_main and run.epoch > first_epoch:
            write_hyperparameters(writer, args, loss, pairs)
    if group.is_main:
        rolling.path.unlink(missing_ok=True)  # behind the last epoch's, and of no use any more
    print(f"done: {folder / checkpoint_name(args.epochs - 1)}")
    return 0
