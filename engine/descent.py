"""A step down the gradient that leaves the weights alone once the loss is no number."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from dataset.clips import ClipSet
from options.errors import UserError

from .checkpoint import save_checkpoint


def steps_between_looks(device: torch.device) -> int:
    """How often a loop asks the device something: every step of a CPU's, which need not be waited for."""
    return 1 if device.type == "cpu" else 10


class Descent:
    """Backward pass and optimizer step, without a wait of the host for the device.

    Whether the loss is finite is settled on the device: from the first loss that is not, every
    update is skipped, so the weights are those before it. ``bad_step`` tells when it is asked,
    which does wait.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, amp: str, device: torch.device) -> None:
        self.optimizer = optimizer  # a fused one: it can skip a step by a flag on the device
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self._bad = torch.zeros((), device=device)  # 1 from the first non-finite loss on
        self._bad_step = torch.full((), -1, dtype=torch.long, device=device)

    def step(
        self, loss: Tensor, number: int, over_processes: Callable[[Tensor], Tensor] = lambda flag: flag
    ) -> None:
        """Step ``number`` down the gradient of ``loss``; ``over_processes`` sums a flag over them."""
        bad_now = over_processes((~torch.isfinite(loss.detach())).float()).clamp(max=1.0)
        self._bad_step = torch.where((self._bad_step < 0) & (bad_now > 0), number, self._bad_step)
        self._bad = torch.maximum(self._bad, bad_now)
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            # The scaler skips by the gradients: a loss divided by zero has none that is finite.
            self.scaler.scale(loss / (1.0 - self._bad)).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            loss.backward()
            self.optimizer.found_inf = self._bad
            self.optimizer.step()

    def bad_step(self) -> int | None:
        """The number of the first step whose loss was not finite, None where there was none."""
        number = int(self._bad_step.item())
        return None if number < 0 else number

    def check(
        self, epoch: int, clips: ClipSet, batches: list[Tensor], folder: Path,
        state: Callable[[], dict] | None,
    ) -> None:
        """End the run where a loss of ``epoch`` was not finite, with ``state()`` kept for inspection."""
        step = self.bad_step()
        if step is None:
            return
        path = folder / "checkpoint_nonfinite.pth.tar"
        if state is not None:
            save_checkpoint(path, state())
        names = ", ".join(clips.names[i] for i in batches[step][:8].tolist())
        raise UserError(
            f"the loss is not finite in epoch {epoch}, step {step} (clips {names}, ...); weights and "
            f"optimizer from before that step are in {path}, for inspection: look at the clips, or "
            "lower --lr"
        )
