"""The pretraining loop of intra- and inter-skeleton contrast (paper section 3)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from dataset.batches import prefetch, shuffled_batches
from dataset.clips import ClipSet
from dataset.views import View
from facts.skeletons import Skeleton
from moco.losses import OBJECTIVES, Objective, Outcome, info_nce
from moco.model import MoCo
from models.registry import build_encoder, lay_out, registry_entry, short_name
from options.flags import given_sizes
from options.parser import Flags
from utils.class_flags import from_flags
from utils.errors import UserError, first_line

from .checkpoint import BEST_KNN, LAST, RollingCheckpoint, checkpoint_errors, checkpoint_name, save_checkpoint
from .device import default_workers, memory_metrics, to_device
from .diagnostics import Monitor, Warnings, named
from .distributed import Group
from .log import RemainingTime, RunLog, StepReport, duration, position_text, step_bar
from .optimization import (
    GuardedOptimizer,
    learning_rate,
    load_optimizer,
    set_learning_rate,
    sync_interval,
)
from .randomness import DROPOUT, ORDER, VIEWS, WEIGHTS, generator, seed_globally
from .resume import ResumePoint
from .signals import EXIT_RESUMABLE, StopRequest


@dataclass
class Pretraining:
    """A pretraining run: model, data, and position (``epoch`` and ``step`` are the next to run)."""

    args: Flags
    model: MoCo
    encode: Callable  # the model's encoders, in their precision and on all devices
    optimizer: GuardedOptimizer
    clips: ClipSet
    view: View
    description: dict  # representations, sizes, dataset, flags: what a downstream script needs
    device: torch.device
    group: Group = Group()
    step: int = 0
    best_knn: float = 0.0  # highest mean accuracy of --monitor-knn

    def __post_init__(self) -> None:
        self.epoch = self.args.start_epoch
        self.representations = tuple(self.model.encoders.query)
        self.metrics = EpochMetrics()
        self.folder = Path(self.args.checkpoint_path)
        self.workers = self.args.workers
        if self.workers is None:
            self.workers = default_workers(self.clips, self.device)

    def state(self) -> dict:
        """Return the content of a checkpoint."""
        return {
            **self.description,
            "epoch": self.epoch,
            "step": self.step,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.optimizer.state_dict(),
            "scaler": self.optimizer.scaler.state_dict(),
            "metrics": {"sums": self.metrics.sums, "steps": self.metrics.steps},
            "best_knn": self.best_knn,
        }

    def restore(self, point: ResumePoint) -> None:
        """Continue from a checkpoint of the same run, if there is one."""
        if point.path is None or point.content is None:
            return
        checkpoint = point.content
        with checkpoint_errors(point.path):
            self.model.load_state_dict(checkpoint["state_dict"])
            load_optimizer(self.optimizer.optimizer, checkpoint["optimizer"])
            if checkpoint["scaler"]:  # empty without loss scaling
                self.optimizer.scaler.load_state_dict(checkpoint["scaler"])
            self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
            if "metrics" in checkpoint:
                self.metrics.sums, self.metrics.steps = (checkpoint["metrics"][k] for k in ("sums", "steps"))
            self.best_knn = checkpoint.get("best_knn", 0.0)
        print(f"resumed {point.path}: {position_text(self.epoch, self.step)}")


def build_objectives(args: Flags, representations: tuple[str, ...]) -> list[Objective]:
    """Build the objectives, whose terms are summed, from their flags."""
    return [from_flags(kind, vars(args), representations=representations) for kind in OBJECTIVES]


def build_model(
    args: Flags,
    representations: tuple[str, ...],
    objectives: list[Objective],
    skeleton: Skeleton,
    group: Group,
) -> MoCo:
    """Build the contrastive model with initial weights, compiled if ``--compile`` is given."""
    seed_globally(args.seed, WEIGHTS)
    build = partial(build_encoder, skeleton=skeleton, **given_sizes(args))
    model = MoCo(representations, build, objectives, args.moco_dim, args.moco_k, args.moco_m, args.mlp)
    if args.sync_bn:
        from .sync_batch_norm import convert_sync_batch_norm  # imports torch._dynamo, which is slow

        convert_sync_batch_norm(model, group)
    if args.compile:
        compile_encoders(model)
    return model


def compile_encoders(model: MoCo) -> None:
    """Compile the encoders whose registry entry allows it."""
    for encoders in (model.encoders.query, model.encoders.key):
        for name, encoder in encoders.items():
            if registry_entry(name).compile:
                encoder.compile(dynamic=False)


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turn an error of ``torch.compile``, for example without a C++ compiler, into ``UserError``."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise UserError(
            f"--compile failed ({first_line(error)}): it needs a C++ compiler and, on a GPU, Triton; install "
            "them, or omit --compile"
        ) from error


class EpochMetrics:
    """Means over the steps of an epoch and over all processes.

    The metrics are the loss, its terms by name and, per pair, the loss relative to chance, the accuracy, and
    the positive and negative logits. New values are summed on the device. ``synchronize`` adds them to
    ``sums``, which are part of a checkpoint, so that the log of an epoch resumed in the middle covers it all.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.steps = 0  # in ``sums``
        self.clips = 0  # of this process, since it started
        self._new: Tensor | None = None
        self._new_steps = 0

    def add(self, loss: Tensor, outcome: Outcome) -> None:
        """Add a step."""
        values = step_metrics(loss.detach(), outcome)
        self.sums = self.sums or dict.fromkeys(values, 0.0)
        new = torch.stack([*values.values()])
        self._new = new if self._new is None else self._new + new
        self._new_steps += 1
        self.clips += len(next(iter(outcome.logits.values())))

    def synchronize(self, group: Group) -> tuple[float, int]:
        """Add the new values, averaged over the processes, to ``sums``; waits for the device.

        Returns the sum of the losses of the new steps, and their number.
        """
        if self._new is None:
            return 0.0, 0
        values = dict(zip(self.sums, (group.sum(self._new) / group.size).tolist()))
        self.sums = {name: total + values[name] for name, total in self.sums.items()}
        steps = self._new_steps
        self.steps += steps
        self._new, self._new_steps = None, 0
        return values["loss"], steps

    def means(self) -> dict[str, float]:
        """Return the mean of each metric up to the last synchronization."""
        return {name: total / self.steps for name, total in self.sums.items()}


def step_metrics(loss: Tensor, outcome: Outcome) -> dict[str, Tensor]:
    """Return the metrics of a step by name, scalars on the device.

    A query counts as correct if its positive key is strictly more similar than every negative key, so a
    collapsed encoder, whose keys are all equal, has an accuracy of 0.
    """
    metrics = {"loss": loss} | {f"loss/{name}": term.detach() for name, term in outcome.terms.items()}
    for (query, key), logits in outcome.logits.items():
        pair = f"{short_name(query)}->{short_name(key)}"
        x = logits.detach()
        positive, negative = x[:, 0], x[:, 1:]
        metrics[f"relative_loss/{pair}"] = info_nce(x) / math.log(x.shape[1])
        metrics[f"contrastive_accuracy/{pair}"] = 100 * (positive > negative.amax(dim=1)).float().mean()
        metrics[f"positive_logit/{pair}"] = positive.mean()
        metrics[f"negative_logit/{pair}"] = negative.mean()
    return metrics


def two_views(run: Pretraining, batches: list[Tensor]) -> Iterator[tuple[dict, dict]]:
    """Yield query and key views of this process's shard of the epoch's remaining batches.

    All representations of a clip show the same view, so the two sides of an inter-skeleton pair
    differ in representation and in view (section 3.3).
    """

    def make(step: int) -> tuple[dict, dict]:
        source = generator(run.args.seed, VIEWS, run.epoch, step)
        shard = run.group.shard(len(batches[step]))
        views = [run.view.of(run.clips, batches[step], source, shard) for _ in range(2)]
        skeleton = run.clips.skeleton
        query, key = (lay_out(to_device(view, run.device), run.representations, skeleton) for view in views)
        return query, key

    return prefetch(make, range(run.step, len(batches)), run.workers)


def train_epoch(
    run: Pretraining, stop: StopRequest, rolling: RollingCheckpoint, report: StepReport | None
) -> None:
    """Train from ``run.step`` to the end of the epoch, or until a stop is requested.

    ``report`` is None in all processes but the first. Checks that make the host wait for a GPU (non-finite
    loss, stop request) run once per ``sync_interval`` steps.
    """
    args, group = run.args, run.group
    order = generator(args.seed, ORDER, run.epoch)
    batches = shuffled_batches(len(run.clips), args.batch_size, order, drop_last=True)
    sync_every = sync_interval(run.device)
    state = run.state if group.is_main else None
    run.model.train()
    with step_bar(run.epoch, len(batches), run.step, None if group.is_main else True) as bar:
        for query, key in two_views(run, batches):
            seed_globally(args.seed, DROPOUT, run.epoch, run.step, *([group.rank] if group.rank else []))
            loss, outcome = run.model(
                query,
                key,
                encode=run.encode,
                gather=group.gather,
                rank=group.rank,
                step=run.epoch * len(batches) + run.step,
            )
            run.optimizer.step(loss, run.step, group.sum)
            run.metrics.add(loss, outcome)
            run.step += 1
            bar.update()
            if run.step % sync_every and run.step < len(batches):
                continue
            new = run.metrics.synchronize(group)
            if report is not None:
                report.add(bar, *new, done=run.epoch * len(batches) + run.step)
            run.optimizer.check(run.epoch, run.clips, batches, run.folder, state)
            if group.any(stop.requested, run.device):
                break
            if group.is_main and run.step < len(batches):
                rolling.save_if_due(run.state)
    if run.step == len(batches):
        run.epoch, run.step = run.epoch + 1, 0


def epoch_line(epoch: int, epochs: int, metrics: dict[str, float], remaining: float) -> str:
    """Return the line printed after an epoch; ``remaining`` is in seconds."""
    losses, terms = named(metrics, "relative_loss"), named(metrics, "loss")
    loss = f"loss {metrics['loss']:.4f}"
    if len(terms) > 1:
        loss += f" ({', '.join(f'{name} {value:.3f}' for name, value in terms.items())})"
    shown = "  ".join(
        f"{pair} {losses[pair]:.2f} {accuracy:.1f}%"
        for pair, accuracy in named(metrics, "contrastive_accuracy").items()
    )
    measured = [("rank", "embedding_rank", ".0f"), ("1-NN", "knn", ".1f")]
    for title, prefix, style in measured:
        if values := named(metrics, prefix):
            shown += f"  {title} " + " ".join(f"{name} {value:{style}}" for name, value in values.items())
    return (
        f"epoch {epoch + 1:4d}/{epochs}  {loss}  {shown}  lr {metrics['learning_rate']:.4g}  "
        f"{metrics['clips_per_second']:.0f} clips/s  {duration(remaining)} left"
    )


def finish_epoch(
    run: Pretraining, log: RunLog, monitor: Monitor, metrics: dict[str, float]
) -> dict[str, float]:
    """Measure the epoch before ``run.epoch``, log it and save its checkpoint, if due; return all metrics."""
    epoch, args = run.epoch - 1, run.args
    metrics |= memory_metrics(run.device)
    if epoch % args.monitor_freq == 0 or run.epoch == args.epochs:
        metrics |= monitor.measure()
    # Before the checkpoint: a run that resumes from it does not repeat this epoch.
    log.epoch("pretrain", epoch, metrics)
    knn = fmean(named(metrics, "knn").values() or [0.0])
    if knn > run.best_knn:
        run.best_knn = knn
        save_checkpoint(run.folder / BEST_KNN, run.state())
    if epoch % args.save_freq == 0 or run.epoch == args.epochs:
        save_checkpoint(run.folder / checkpoint_name(epoch), run.state())
    return metrics


def train(run: Pretraining, log: RunLog | None) -> int:
    """Train from the position of ``run`` to the last epoch; returns the exit code.

    Numbered checkpoints are saved after epoch 0, every ``--save-freq`` epochs and after the last epoch.
    ``checkpoint_last`` is saved every ``--save-minutes`` and when the run is stopped; a finished run
    removes it. ``log`` is None in all processes but the first.
    """
    args, group = run.args, run.group
    rolling = RollingCheckpoint(run.folder / LAST, args.save_minutes)
    monitor = Monitor(run.model.encoders, run.clips, run.view, args.seed, run.device, args.monitor_knn)
    warnings = Warnings(args.epochs, has_queue=args.moco_k > 0)
    epoch_steps = len(run.clips) // args.batch_size
    estimate = RemainingTime(args.epochs * epoch_steps)
    report = None if log is None else StepReport(log, args.print_freq, estimate)
    metrics: dict[str, float] = {}
    print("per pair: loss relative to chance, ln(1 + K), and contrastive accuracy", flush=True)
    with StopRequest() as stop:
        while run.epoch < args.epochs:
            epoch, start = run.epoch, time.monotonic()
            rate = learning_rate(args.lr, epoch, args.epochs, args.schedule, args.cos, args.warmup_epochs)
            set_learning_rate(run.optimizer.optimizer, rate)
            train_epoch(run, stop, rolling, report)
            if run.epoch == epoch:  # stopped within the epoch
                break
            sums, run.metrics = run.metrics, EpochMetrics()
            if log is not None:
                seconds = max(time.monotonic() - start, 1e-9)
                clips = group.size * sums.clips
                remaining = estimate.after(run.epoch * epoch_steps)
                metrics = sums.means() | {"learning_rate": rate, "clips_per_second": clips / seconds}
                metrics = finish_epoch(run, log, monitor, metrics)
                print(epoch_line(epoch, args.epochs, metrics, remaining), flush=True)
                for line in warnings.check(epoch, metrics):
                    print(line, flush=True)
            if group.any(stop.requested, run.device):
                break
        if run.epoch < args.epochs:  # still inside StopRequest: a second SIGTERM must not interrupt the save
            if group.is_main:
                save_checkpoint(rolling.path, run.state())
            print(f"stopped in {position_text(run.epoch, run.step)}; --resume auto continues from there")
            return EXIT_RESUMABLE
    if log is not None and metrics:
        log.hyperparameters({k: v for k, v in metrics.items() if "logit" not in k})
    if group.is_main:
        rolling.path.unlink(missing_ok=True)  # older than the last numbered checkpoint
    print(f"done: {run.folder / checkpoint_name(args.epochs - 1)}")
    return 0
