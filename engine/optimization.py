"""Learning-rate schedules, and optimizer steps that stop once the loss is non-finite."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dataset.clips import ClipSet
from utils.errors import UserError

from .checkpoint import save_checkpoint
from .log import position_text

CPU_SYNC_INTERVAL, GPU_SYNC_INTERVAL = 1, 10  # steps


def learning_rate(
    base: float, epoch: int, epochs: int, schedule: Sequence[int], cosine: bool, warmup: int = 0
) -> float:
    """Return the learning rate of ``epoch`` (0-based).

    It rises linearly to ``base`` in the first ``warmup`` epochs. Then it is divided by 10 at each epoch in
    ``schedule``, or follows half a cosine to zero.
    """
    if epoch < warmup:
        return base * (epoch + 1) / warmup
    if cosine:
        return base * 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1)))
    return base * 0.1 ** sum(epoch >= milestone for milestone in schedule)


def schedule_note(args: argparse.Namespace, stored: Mapping[str, Any], epoch: int) -> list[str]:
    """Return a note if a run resumed at ``epoch`` has other epochs, which changes its cosine schedule.

    ``stored`` are the flags in its checkpoint, empty for a new run.
    """
    before = stored.get("epochs", args.epochs)
    if not args.cos or before == args.epochs:
        return []
    old, new = (
        learning_rate(args.lr, epoch, epochs, [], True, getattr(args, "warmup_epochs", 0))
        for epochs in (before, args.epochs)
    )
    return [
        f"note: --epochs {args.epochs} instead of {before} changes the cosine schedule: the learning rate of "
        f"epoch {epoch + 1} is {new:.4g} instead of {old:.4g}"
    ]


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def sync_interval(device: torch.device) -> int:
    """Return the number of steps between two reads of device values; on a GPU each read synchronizes."""
    return CPU_SYNC_INTERVAL if device.type == "cpu" else GPU_SYNC_INTERVAL


def pretraining_optimizer(module: nn.Module, args: argparse.Namespace) -> Optimizer:
    """Return the fused ``--optimizer`` of a pretraining; AdamW does not decay norms and biases."""
    if args.optimizer == "sgd":
        return make_sgd(module.parameters(), args.lr, args.momentum, args.weight_decay)
    parameters = [*module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, args.lr, fused=True)


def make_sgd(
    parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """Return fused SGD whose momentum buffers are zero from the start.

    PyTorch allocates them uninitialized in the first step, which leaves them so if it is skipped.
    """
    optimizer = torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    add_momentum_buffers(optimizer)
    # A checkpoint that was written before the first step of an older version has none.
    optimizer.register_load_state_dict_post_hook(add_momentum_buffers)
    return optimizer


def add_momentum_buffers(optimizer: Optimizer) -> None:
    """Give every parameter of an SGD optimizer without a momentum buffer one of zeros."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def load_optimizer(optimizer: Optimizer, saved: dict) -> None:
    """Load the state of the parameters from ``saved``; the settings remain those of ``optimizer``.

    Raises ``ValueError`` if it does not fit the parameters: PyTorch does not check it, and a fused step on
    tensors of another shape reads outside of them.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entry in saved["state"].items():
        parameter = parameters[index]
        for name, value in entry.items():
            is_step = name == "step" and value.shape == ()
            if not is_step and (value.shape, value.dtype) != (parameter.shape, parameter.dtype):
                raise ValueError(f"the optimizer's {name} of parameter {index} does not fit it")
    if saved["state"] and saved["state"].keys() != dict(enumerate(parameters)).keys():
        raise ValueError("the optimizer's state is not that of the parameters")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


class GuardedOptimizer:
    """Backward pass and optimizer step that leave the weights unchanged once a loss is non-finite.

    The check runs on the device: from the first non-finite loss on, every update is skipped without
    host-device synchronization. ``first_nonfinite_step`` reads the result and does synchronize. The optimizer
    is a fused one, which can skip a step by a flag on the device; ``fp16`` enables loss scaling.
    """

    def __init__(self, optimizer: Optimizer, amp: str, device: torch.device) -> None:
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self._nonfinite = torch.zeros((), device=device)  # 1 from the first non-finite loss on
        self._first_step = torch.full((), -1, dtype=torch.long, device=device)

    def step(
        self, loss: Tensor, number: int, sum_over_processes: Callable[[Tensor], Tensor] = lambda flag: flag
    ) -> None:
        """Backpropagate a scalar and update the weights; ``number`` is the step within the epoch.

        ``sum_over_processes`` sums a flag over the processes, so that all of them skip together.
        """
        now = sum_over_processes((~torch.isfinite(loss.detach())).float()).clamp(max=1.0)
        self._first_step = torch.where((self._first_step < 0) & (now > 0), number, self._first_step)
        self._nonfinite = torch.maximum(self._nonfinite, now)
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            # The scaler skips a step by its gradients; a loss divided by zero has no finite ones.
            self.scaler.scale(loss / (1.0 - self._nonfinite)).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            loss.backward()
            self.optimizer.found_inf = self._nonfinite  # type: ignore[attr-defined]  # read by fused ones
            self.optimizer.step()

    def first_nonfinite_step(self) -> int | None:
        """Return the number of the first step with a non-finite loss, or None."""
        number = int(self._first_step.item())
        return None if number < 0 else number

    def check(
        self,
        epoch: int,
        clips: ClipSet,
        batches: list[Tensor],
        folder: Path,
        state: Callable[[], dict] | None,
    ) -> None:
        """Raise ``UserError`` if a loss of ``epoch`` was non-finite; ``state()`` is saved for inspection."""
        step = self.first_nonfinite_step()
        if step is None:
            return
        path = folder / "checkpoint_nonfinite.pth.tar"
        if state is not None:
            save_checkpoint(path, state())
        names = ", ".join(clips.names[i] for i in batches[step][:8].tolist())
        raise UserError(
            f"non-finite loss in {position_text(epoch, step)} (clips {names}, ...); the state before that "
            f"step is saved in {path} for inspection: check these clips or lower --lr"
        )
