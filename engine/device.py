"""Where things run: the CPU, one GPU, all visible GPUs through DataParallel, or torchrun's processes."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import nn

from dataset.clips import ClipSet
from options.errors import UserError

from .distributed import Group, wrap

ROOM = 0.3  # share of a GPU's free memory that clips may take by --data-device auto


def pick_device(gpu: int | None) -> torch.device:
    """``--gpu N`` means that GPU; otherwise the first visible one (torchrun's: its own), or the CPU."""
    if gpu is not None:
        visible = torch.cuda.device_count()
        if not 0 <= gpu < visible:
            raise UserError(
                f"--gpu {gpu}: {visible or 'no'} GPUs are visible here; leave --gpu out to use "
                "what there is"
            )
        return torch.device("cuda", gpu)
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def parallel(
    module: nn.Module, device: torch.device, gpu: int | None, group: Group = Group()
) -> nn.Module:
    """``module``, wrapped for the processes of ``group`` or for the GPUs that are visible."""
    if group.size > 1:
        return wrap(module, device, group)
    if uses_data_parallel(device, gpu):
        return nn.DataParallel(module)
    return module


def uses_data_parallel(device: torch.device, gpu: int | None) -> bool:
    """Whether one process drives several GPUs: where they are visible and none was chosen."""
    return device.type == "cuda" and gpu is None and torch.cuda.device_count() > 1


def describe(device: torch.device, gpu: int | None, group: Group = Group()) -> str:
    """The device in words, for logs and results."""
    processes = f"{group.size} processes, each on " if group.size > 1 else ""
    if device.type == "cpu":
        return f"{processes}CPU, {torch.get_num_threads()} threads"
    count = torch.cuda.device_count() if group.size == 1 and gpu is None else 1
    return f"{processes}{count} x {torch.cuda.get_device_name(device)}"


def default_workers(clips: ClipSet, device: torch.device) -> int:
    """Threads beside the step pay where the CPU draws for a GPU; elsewhere they take its time."""
    return 2 if device.type == "cuda" and clips.frames.device.type == "cpu" else 0


def place_clips(splits: Sequence[ClipSet], where: str, device: torch.device) -> list[ClipSet]:
    """``splits`` where ``--data-device`` says: ``cpu`` (a memory map), ``cuda``, or ``auto``.

    ``auto`` takes the GPU if the frames fill less than ``ROOM`` of its free memory. Splits of one
    store share its frames.
    """
    if where == "cuda" and device.type != "cuda":
        raise UserError("--data-device cuda: no GPU is used here; leave it out")
    if where == "cpu" or device.type == "cpu":
        return list(splits)
    owners = {clips.frames_id: clips for clips in splits}
    size = sum(clips.frames.nbytes for clips in owners.values())
    free = torch.cuda.mem_get_info(device)[0]
    if where == "cuda" and size > free:
        raise UserError(
            f"--data-device cuda: the clips take {size / 1e9:.1f} GB, the GPU has {free / 1e9:.1f} GB "
            "free; use --data-device cpu"
        )
    if where == "auto" and size > ROOM * free:
        return list(splits)
    print(f"{size / 1e9:.2f} GB of clips to {device}", flush=True)
    moved = {name: clips.on(device) for name, clips in owners.items()}
    return [clips.with_frames_of(moved[clips.frames_id]) for clips in splits]
