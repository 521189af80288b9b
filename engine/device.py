"""Where things run: the CPU, one GPU, or all visible GPUs through DataParallel."""

from __future__ import annotations

import torch
from torch import nn

from options.errors import UserError


def pick_device(gpu: int | None) -> torch.device:
    """``--gpu N`` means that GPU; otherwise the first visible one, else the CPU."""
    if gpu is not None:
        visible = torch.cuda.device_count()
        if not 0 <= gpu < visible:
            raise UserError(
                f"--gpu {gpu}: {visible or 'no'} GPUs are visible here; leave --gpu out to use "
                "what there is"
            )
        return torch.device("cuda", gpu)
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def parallel(module: nn.Module, device: torch.device, gpu: int | None) -> nn.Module:
    """``module``, or a DataParallel of it where several GPUs are visible and none was chosen."""
    if device.type == "cuda" and gpu is None and torch.cuda.device_count() > 1:
        return nn.DataParallel(module)
    return module


def describe(device: torch.device, gpu: int | None) -> str:
    """The device in words, for logs and results."""
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    count = 1 if gpu is not None else torch.cuda.device_count()
    return f"{count} x {torch.cuda.get_device_name(device)}"
