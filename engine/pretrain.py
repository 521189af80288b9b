"""The pretraining loop of intra- and inter-skeleton contrast (paper section 3)."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dataset.batches import prefetch, shuffled_batches
from dataset.clips import ClipSet
from dataset.views import View
from moco.losses import PAIRS, info_nce
from moco.model import MoCo
from models.registry import lay_out, short_name

from .checkpoint import LAST, RollingCheckpoint, checkpoint_name, save_checkpoint
from .device import memory_metrics, to_device
from .diagnostics import Monitor, Warnings, named
from .distributed import Group
from .log import RunLog, config_text, step_bar
from .optimization import GuardedOptimizer, learning_rate, set_learning_rate, sync_interval
from .randomness import DROPOUT, ORDER, VIEWS, generator, seed_globally
from .signals import EXIT_RESUMABLE, StopRequest


@dataclass
class Pretraining:
    """A pretraining run: model, data, and position (``epoch`` and ``step`` are the next to run)."""

    model: MoCo
    encode: Callable  # the model's encoders, in their precision and on all devices
    optimizer: GuardedOptimizer
    clips: ClipSet
    view: View
    description: dict  # representations, sizes, dataset, flags: what a downstream script needs
    seed: int
    device: torch.device
    group: Group = Group()
    epoch: int = 0
    step: int = 0

    def state(self) -> dict:
        """Return the content of a checkpoint."""
        return {
            **self.description,
            "seed": self.seed,
            "epoch": self.epoch,
            "step": self.step,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.optimizer.state_dict(),
            "scaler": self.optimizer.scaler.state_dict(),
        }

    def restore(self, checkpoint: dict) -> None:
        """Continue from a checkpoint of the same run."""
        self.model.load_state_dict(checkpoint["state_dict"])
        self.optimizer.optimizer.load_state_dict(checkpoint["optimizer"])
        if checkpoint["scaler"]:  # empty without loss scaling
            self.optimizer.scaler.load_state_dict(checkpoint["scaler"])
        self.seed, self.epoch, self.step = (checkpoint[k] for k in ("seed", "epoch", "step"))


class EpochMetrics:
    """Sums over the steps of an epoch, kept on the device."""

    def __init__(self, pairs: list[tuple[str, str]], device: torch.device) -> None:
        self.names = [f"{short_name(q)}->{short_name(k)}" for q, k in pairs]
        self.loss = torch.zeros((), device=device)
        # per pair: accuracy, positive and negative logit, loss relative to chance
        self.sums = torch.zeros(len(pairs), 4, device=device)
        self.steps = torch.zeros((), device=device)
        self.clips = 0  # of this process

    def add(self, loss: Tensor, logits: list[Tensor]) -> None:
        """Add a step.

        A query counts as correct if its positive key is strictly more similar than every negative key,
        so a collapsed encoder, whose keys are all equal, has an accuracy of 0.
        """
        self.loss += loss.detach()
        for sums, x in zip(self.sums, logits):
            positive, negative = x.detach()[:, 0], x.detach()[:, 1:]
            correct = positive > negative.amax(dim=1)
            relative = info_nce(x.detach()) / math.log(x.shape[1])
            sums += torch.stack([correct.float().mean(), positive.mean(), negative.mean(), relative])
        self.steps += 1
        self.clips += logits[0].shape[0]

    def mean_loss(self) -> float:
        """Return the mean loss so far; synchronizes with the device."""
        return (self.loss / self.steps).item()

    def means(self, group: Group) -> dict[str, float]:
        """Average over steps and processes: the loss and, per pair, loss / ln(1 + K), accuracy and logits."""
        steps = group.sum(self.steps).clamp(min=1)
        values = (group.sum(self.sums) / steps).tolist()
        metrics = {"loss": (group.sum(self.loss) / steps).item()}
        for name, (accuracy, positive, negative, relative) in zip(self.names, values):
            metrics[f"relative_loss/{name}"] = relative
            metrics[f"contrastive_accuracy/{name}"] = 100 * accuracy
            metrics[f"positive_logit/{name}"] = positive
            metrics[f"negative_logit/{name}"] = negative
        return metrics


def two_views(run: Pretraining, batches: list[Tensor], workers: int) -> Iterator[tuple[dict, dict]]:
    """Yield query and key views of this process's shard of the epoch's remaining batches.

    All representations of a clip show the same view, so the two sides of an inter-skeleton pair
    differ in representation and in view (section 3.3).
    """
    representations = tuple(run.description["representations"])

    def make(step: int) -> tuple[dict, dict]:
        source = generator(run.seed, VIEWS, run.epoch, step)
        shard = run.group.shard(len(batches[step]))
        views = [run.view.of(run.clips, batches[step], source, shard) for _ in range(2)]
        skeleton = run.clips.skeleton
        query, key = (lay_out(to_device(view, run.device), representations, skeleton) for view in views)
        return query, key

    return prefetch(make, range(run.step, len(batches)), workers)


def train_epoch(
    run: Pretraining, args: argparse.Namespace, stop: StopRequest, rolling: RollingCheckpoint
) -> EpochMetrics:
    """Train from ``run.step`` to the end of the epoch, or until a stop is requested.

    Checks that make the host wait for a GPU (non-finite loss, stop request) run once per
    ``sync_interval`` steps.
    """
    order = generator(run.seed, ORDER, run.epoch)
    batches = shuffled_batches(len(run.clips), args.batch_size, order, drop_last=True)
    group = run.group
    pairs = PAIRS[getattr(args, "pairs", "intra")](run.description["representations"])
    metrics = EpochMetrics(pairs, run.device)
    sync_every = sync_interval(run.device)
    state = run.state if group.is_main else None
    run.model.train()
    with step_bar(run.epoch, len(batches), run.step, None if group.is_main else True) as bar:
        for query, key in two_views(run, batches, args.workers):
            seed_globally(run.seed, DROPOUT, run.epoch, run.step, *([group.rank] if group.rank else []))
            loss, outcome = run.model(query, key, encode=run.encode, gather=group.gather, rank=group.rank)
            run.optimizer.step(loss, run.step, group.sum)
            metrics.add(loss, [*outcome.logits.values()])
            run.step += 1
            bar.update()
            if run.step % args.print_freq == 0 and not bar.disable:
                bar.set_postfix(loss=f"{metrics.mean_loss():.3f}")
            if run.step % sync_every and run.step < len(batches):
                continue
            run.optimizer.check(run.epoch, run.clips, batches, Path(args.checkpoint_path), state)
            if group.any(stop.requested, run.device):
                break
            if group.is_main and run.step < len(batches):
                rolling.save_if_due(run.state)
    if run.step == len(batches):
        run.epoch, run.step = run.epoch + 1, 0
    return metrics


def epoch_line(epoch: int, args: argparse.Namespace, metrics: dict[str, float], remaining: float) -> str:
    """Return the line printed after an epoch: per pair the loss relative to chance and the accuracy.

    ``remaining`` is in seconds.
    """
    losses = named(metrics, "relative_loss")
    shown = "  ".join(
        f"{pair} {losses[pair]:.2f} {accuracy:.1f}%"
        for pair, accuracy in named(metrics, "contrastive_accuracy").items()
    )
    measured = [("rank", "embedding_rank", ".0f"), ("1-NN", "knn", ".1f")]
    for title, prefix, style in measured:
        if values := named(metrics, prefix):
            shown += f"  {title} " + " ".join(f"{name} {value:{style}}" for name, value in values.items())
    return (
        f"epoch {epoch:4d}/{args.epochs}  loss {metrics['loss']:.4f}  {shown}  "
        f"lr {metrics['learning_rate']:.4g}  {metrics['clips_per_second']:.0f} clips/s  "
        f"{remaining / 60:.1f} min left"
    )


class RemainingTime:
    """Estimates the remaining time of a run; the setup of a process and its first epoch do not count."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._mark: tuple[int, float] | None = None  # epochs done, and when

    def after(self, done: int, seconds: float) -> float:
        """Return the remaining seconds after ``done`` epochs, the last of which took ``seconds``."""
        now = time.monotonic()
        if self._mark is None:
            self._mark = done, now
        else:
            first, start = self._mark
            seconds = (now - start) / (done - first)
        return seconds * (self._epochs - done)


def save_epoch(run: Pretraining, args: argparse.Namespace, log: RunLog, metrics: dict[str, float]) -> None:
    """Log the metrics of the epoch before ``run.epoch`` and save its checkpoint, if it is due."""
    epoch = run.epoch - 1
    # Before the checkpoint: a run that resumes from it does not repeat this epoch.
    log.epoch("pretrain", epoch, metrics)
    if epoch % args.save_freq == 0 or run.epoch == args.epochs:
        save_checkpoint(Path(args.checkpoint_path) / checkpoint_name(epoch), run.state())


def pretrain(run: Pretraining, args: argparse.Namespace, log_views: Callable) -> int:
    """Train from the position of ``run`` to ``args.epochs``; returns the exit code.

    Numbered checkpoints are saved after epoch 0, every ``args.save_freq`` epochs and after the last
    epoch. ``checkpoint_last`` is saved every ``args.save_minutes`` and when the run is stopped; a
    finished run removes it. ``log_views(log, clips, view, seed)`` logs sample views of a new run.
    """
    folder, group = Path(args.checkpoint_path), run.group
    rolling = RollingCheckpoint(folder / LAST, args.save_minutes)
    metrics: dict[str, float] = {}
    monitor = Monitor(run.model.encoders, run.clips, run.view, run.seed, run.device, args.monitor_knn)
    warnings = Warnings(args.epochs, has_queue=args.moco_k > 0)
    estimate = RemainingTime(args.epochs)
    with RunLog(folder, args, run.epoch) if group.is_main else nullcontext() as log, StopRequest() as stop:
        print(config_text(args))
        print("per pair: loss relative to chance, ln(1 + K), and contrastive accuracy", flush=True)
        if group.is_main and (run.epoch, run.step) == (args.start_epoch, 0):
            log_views(log, run.clips, run.view, run.seed)
        while run.epoch < args.epochs:
            epoch, epoch_start = run.epoch, time.monotonic()
            rate = learning_rate(args.lr, epoch, args.epochs, args.schedule, args.cos)
            set_learning_rate(run.optimizer.optimizer, rate)
            sums = train_epoch(run, args, stop, rolling)
            if run.epoch == epoch:  # stopped within the epoch
                break
            metrics = sums.means(group)
            if log is not None:  # the main process
                seconds = max(time.monotonic() - epoch_start, 1e-9)
                metrics |= {"learning_rate": rate, "clips_per_second": group.size * sums.clips / seconds}
                metrics |= memory_metrics(run.device)
                if epoch % args.monitor_freq == 0 or run.epoch == args.epochs:
                    metrics |= monitor.measure()
                save_epoch(run, args, log, metrics)
                remaining = estimate.after(run.epoch, seconds * len(run.clips) / (group.size * sums.clips))
                print(epoch_line(epoch, args, metrics, remaining), flush=True)
                for line in warnings.check(epoch, metrics):
                    print(line, flush=True)
            if group.any(stop.requested, run.device):
                break
        if run.epoch < args.epochs:  # still inside StopRequest: a second SIGTERM must not interrupt the save
            if group.is_main:
                save_checkpoint(folder / LAST, run.state())
            print(f"stopped in epoch {run.epoch}, step {run.step}; --resume auto continues from there")
            return EXIT_RESUMABLE
        if log is not None and metrics:
            log.hyperparameters({k: v for k, v in metrics.items() if "logit" not in k})
    if group.is_main:
        rolling.path.unlink(missing_ok=True)  # older than the last numbered checkpoint
    print(f"done: {folder / checkpoint_name(args.epochs - 1)}")
    return 0
