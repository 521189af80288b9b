"""The one pretraining loop, for intra- and inter-skeleton contrast alike (paper section 3)."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dataset.augment import Augmentation
from dataset.batches import draw_ahead, shuffled_batches
from dataset.clips import ClipSet
from dataset.layout import lay_out
from dataset.views import pretraining_view
from moco.model import MoCo
from options.errors import UserError

from .checkpoint import LAST, Rolling, checkpoint_name, save_checkpoint
from .randomness import DROPOUT, ORDER, VIEWS, generator, seed_globally
from .schedule import learning_rate, set_learning_rate
from .stop import STOPPED, StopRequest


@dataclass
class Run:
    """The state of a pretraining, and where it stands: the next step to do."""

    model: MoCo
    encode: nn.Module  # the model's encoders, or their data-parallel wrapper
    optimizer: torch.optim.Optimizer
    describe: dict  # what a downstream script needs: representations, sizes, dataset, flags
    seed: int
    epoch: int = 0
    step: int = 0

    def state(self) -> dict:
        return {
            **self.describe, "seed": self.seed, "epoch": self.epoch, "step": self.step,
            "state_dict": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, checkpoint: dict) -> None:
        self.model.load_state_dict(checkpoint["state_dict"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.seed, self.epoch, self.step = (checkpoint[k] for k in ("seed", "epoch", "step"))


class EpochMetrics:
    """Sums of loss and right answers, kept on the device until they are asked for."""

    def __init__(self, pairs: list[tuple[str, str]], device: torch.device) -> None:
        self.names = [f"{q.split('-')[0]}->{k.split('-')[0]}" for q, k in pairs]
        self.loss = torch.zeros((), device=device)
        self.right = torch.zeros(len(pairs), device=device)
        self.steps = self.clips = 0

    def add(self, loss: Tensor, logits: list[Tensor]) -> None:
        """A query is right where its own key, column 0, is nearer than every key of the queue.

        Strictly nearer: of a collapsed encoder, whose keys are all alike, none is right.
        """
        self.loss += loss.detach()
        self.right += torch.stack([(x[:, 0] > x[:, 1:].amax(dim=1)).sum() for x in logits])
        self.steps += 1
        self.clips += logits[0].shape[0]

    def mean_loss(self) -> float:
        return self.loss.item() / max(self.steps, 1)

    def accuracy(self) -> dict[str, float]:
        """Contrastive accuracy in percent, per (query -> key) pair."""
        percent = (100.0 * self.right / max(self.clips, 1)).tolist()
        return dict(zip(self.names, percent))


def two_views(
    clips: ClipSet, batches: list[Tensor], augmentation: Augmentation,
    representations: tuple[str, ...], run: Run, device: torch.device, workers: int,
) -> Iterator[tuple[Tensor, dict, dict]]:
    """Index, query views and key views of the epoch's remaining batches.

    All representations of a clip see the same view, so a pair of them differs in representation
    and in view (section 3.3).
    """

    def draw(step: int) -> tuple[Tensor, dict, dict]:
        index = batches[step]
        source = generator(run.seed, VIEWS, run.epoch, step)
        views = [pretraining_view(clips, index, augmentation, source) for _ in range(2)]
        query, key = (lay_out(view.to(device, non_blocking=True), representations) for view in views)
        return index, query, key

    return draw_ahead(draw, range(run.step, len(batches)), workers)


def check_finite(loss: Tensor, run: Run, clips: ClipSet, index: Tensor, folder: Path) -> None:
    """End the run before the optimizer's step where the loss is no number."""
    if math.isfinite(loss.item()):
        return
    path = folder / "checkpoint_nonfinite.pth.tar"
    save_checkpoint(path, run.state())
    names = ", ".join(clips.names[i] for i in index[:8].tolist())
    raise UserError(
        f"the loss is {loss.item()} in epoch {run.epoch}, step {run.step} (clips {names}, ...); "
        f"the state at that moment is in {path}, for inspection: look at the clips, or lower --lr"
    )


def train_epoch(
    run: Run, clips: ClipSet, augmentation: Augmentation, args: argparse.Namespace,
    device: torch.device, stop: StopRequest, rolling: Rolling,
) -> EpochMetrics:
    """Train from ``run.step`` to the end of the epoch, or until a stop is requested."""
    representations = tuple(run.describe["representations"])
    order = generator(run.seed, ORDER, run.epoch)
    batches = shuffled_batches(len(clips), args.batch_size, order, drop_last=True)
    views = two_views(clips, batches, augmentation, representations, run, device, args.workers)
    metrics = EpochMetrics(run.model.pairs, device)
    run.model.train()
    bar = tqdm(
        total=len(batches), initial=run.step, desc=f"epoch {run.epoch}", unit="step",
        leave=False, disable=None, dynamic_ncols=True,
    )
    with bar:
        for index, query, key in views:
            rolling.save_if_due(run.state)
            seed_globally(run.seed, DROPOUT, run.epoch, run.step)
            loss, logits = run.model(query, key, encode=run.encode)
            check_finite(loss, run, clips, index, Path(args.checkpoint_path))
            run.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            run.optimizer.step()
            metrics.add(loss, logits)
            run.step += 1
            bar.update()
            if run.step % args.print_freq == 0:
                bar.set_postfix(loss=f"{metrics.mean_loss():.3f}")
            if stop.requested:
                break
    if run.step == len(batches):
        run.epoch, run.step = run.epoch + 1, 0
    return metrics


def report_epoch(
    metrics: EpochMetrics, run: Run, args: argparse.Namespace, writer: SummaryWriter,
    rate: float, seconds: float, remaining: float,
) -> None:
    """One line and the scalars of a finished epoch."""
    epoch = run.epoch - 1
    accuracy = metrics.accuracy()
    shown = "  ".join(f"{name} {value:.1f}%" for name, value in accuracy.items())
    speed = metrics.clips / max(seconds, 1e-9)
    print(
        f"epoch {epoch:4d}/{args.epochs}  loss {metrics.mean_loss():.4f}  {shown}  lr {rate:.4g}  "
        f"{speed:.0f} clips/s  {remaining / 60:.1f} min left", flush=True,
    )
    writer.add_scalar("pretrain/loss", metrics.mean_loss(), epoch)
    writer.add_scalar("pretrain/learning_rate", rate, epoch)
    writer.add_scalar("pretrain/clips_per_second", speed, epoch)
    for name, value in accuracy.items():
        writer.add_scalar(f"pretrain/contrastive_accuracy/{name}", value, epoch)


def pretrain(
    run: Run, clips: ClipSet, augmentation: Augmentation, args: argparse.Namespace,
    device: torch.device,
) -> int:
    """Train from where ``run`` stands to ``args.epochs``; returns the exit code.

    A checkpoint is kept every ``args.save_freq`` epochs (epoch 0 first, as the released program
    counts) and after the last. A run that is asked to stop saves in mid-epoch; one that is killed
    has the checkpoint that is written anew every ``args.save_minutes``.
    """
    folder = Path(args.checkpoint_path)
    rolling = Rolling(folder / LAST, args.save_minutes)
    began, first_epoch = time.monotonic(), run.epoch
    with SummaryWriter(str(folder), purge_step=run.epoch) as writer, StopRequest() as stop:
        while run.epoch < args.epochs:
            epoch, start = run.epoch, time.monotonic()
            rate = learning_rate(args.lr, epoch, args.epochs, args.schedule, args.cos)
            set_learning_rate(run.optimizer, rate)
            metrics = train_epoch(run, clips, augmentation, args, device, stop, rolling)
            if run.epoch == epoch:  # stopped in the middle
                break
            done = run.epoch - first_epoch
            remaining = (time.monotonic() - began) / done * (args.epochs - run.epoch)
            report_epoch(metrics, run, args, writer, rate, time.monotonic() - start, remaining)
            if epoch % args.save_freq == 0 or run.epoch == args.epochs:
                save_checkpoint(folder / checkpoint_name(epoch), run.state())
            if stop.requested:
                break
        if run.epoch < args.epochs:  # still under StopRequest: a second SIGTERM must not cut the save
            save_checkpoint(folder / LAST, run.state())
            print(f"stopped in epoch {run.epoch}, step {run.step}; --resume auto goes on from there")
            return STOPPED
    rolling.path.unlink(missing_ok=True)  # behind the last epoch's, and of no use any more
    print(f"done: {folder / checkpoint_name(args.epochs - 1)}")
    return 0
