"""Devices and precision of a run: CPU, one GPU, DataParallel or torchrun; mixed precision, TF32."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dataset.clips import ClipSet
from options.parser import reject
from utils.errors import UserError

from .distributed import SINGLE_PROCESS, Group, check_shards

AUTO_MEMORY_FRACTION = 0.3  # fraction of a GPU's free memory that --data-device auto may fill with clips
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(gpu: int | None) -> torch.device:
    """Return GPU ``gpu``, else the current GPU (with torchrun the one of this process) or the CPU.

    The device becomes the current one: some optimizers open a context on whichever is. Raises ``UserError``
    if there is no such GPU.
    """
    if gpu is not None:
        visible = torch.cuda.device_count()
        if not 0 <= gpu < visible:
            raise UserError(
                f"--gpu {gpu}: {visible or 'no'} GPUs are visible; omit --gpu to use all of them, or the CPU"
            )
        torch.cuda.set_device(gpu)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def uses_data_parallel(device: torch.device, gpu: int | None) -> bool:
    """Return whether one process uses several GPUs: several are visible and ``--gpu`` is not given."""
    return device.type == "cuda" and gpu is None and torch.cuda.device_count() > 1


def data_parallel_note() -> str:
    """Return a note about the cost of several GPUs in one process, with the command that is faster."""
    count = torch.cuda.device_count()
    command = shlex.join(["python", "-m", "torch.distributed.run", "--nproc-per-node", str(count), *sys.argv])
    return (
        f"note: one process uses {count} GPUs and copies all weights to each of them in every step. Faster: "
        f"one process per GPU ({command}) or a single GPU (--gpu 0)"
    )


def parallel(
    module: nn.Module, device: torch.device, gpu: int | None, group: Group = SINGLE_PROCESS
) -> nn.Module:
    """Return ``module`` wrapped in DistributedDataParallel or DataParallel, if the run uses one of them.

    BatchNorm's running statistics are not synchronized: training does not read them, and those of
    the first process or device are saved.
    """
    if group.size > 1:
        device_ids = [device] if device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer versions rename an argument
            return nn.parallel.DistributedDataParallel(
                module, device_ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
    if uses_data_parallel(device, gpu):
        return nn.DataParallel(module)
    return module


def describe(device: torch.device, gpu: int | None, group: Group = SINGLE_PROCESS) -> str:
    """Return the devices of a run as text, for logs and results."""
    processes = f"{group.size} processes, each on " if group.size > 1 else ""
    if device.type == "cpu":
        return f"{processes}CPU, {torch.get_num_threads()} threads"
    count = torch.cuda.device_count() if group.size == 1 and gpu is None else 1
    return f"{processes}{count} x {torch.cuda.get_device_name(device)}"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a GPU computes in bfloat16; before Ampere, PyTorch emulates it with many kernels."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def check_amp(amp: str, device: torch.device) -> None:
    """Raise ``UserError`` if the device does not support ``--amp`` of this value."""
    emulated = amp == "bf16" and device.type == "cuda" and not has_bfloat16(device)
    reject(
        (amp == "fp16" and device.type != "cuda", "--amp fp16 needs a GPU; use --amp bf16 on a CPU"),
        (emulated, f"--amp bf16: {describe(device, None)} does not support bfloat16; use --amp fp16"),
    )


def check_modes(args: argparse.Namespace, device: torch.device, group: Group) -> None:
    """Raise ``UserError`` for flags of a pretraining that do not work together or on this device."""
    check_amp(args.amp, device)
    check_shards(group, args.batch_size)
    several_gpus = group.size == 1 and uses_data_parallel(device, args.gpu)
    reject(
        (
            group.size > 1 and args.gpu is not None,
            "--gpu: torchrun assigns a GPU to every process; omit --gpu",
        ),
        (
            args.compile and several_gpus,
            "--compile does not support several GPUs in one process: start with torchrun or add --gpu 0",
        ),
        (args.sync_bn and group.size == 1, "--sync-bn needs several processes: start with torchrun"),
    )
    if several_gpus:
        print(data_parallel_note())


def use_tf32(allow: bool) -> None:
    """Allow or forbid TF32 in float32 matrix products and convolutions on GPUs that support it."""
    torch.set_float32_matmul_precision("high" if allow else "highest")
    torch.backends.cudnn.allow_tf32 = allow


class MixedPrecision(nn.Module):
    """A module whose forward pass runs under autocast.

    Autocast is entered inside the module, so that it also applies in the worker threads of
    DataParallel, which do not inherit the autocast dtype. Weights, momentum update, loss and the
    softmax over the queue stay in float32.
    """

    def __init__(self, module: nn.Module, amp: str, device: torch.device) -> None:
        super().__init__()
        self.module, self.device_type, self.dtype = module, device.type, AMP_DTYPES[amp]

    def forward(self, *views: Mapping[str, Tensor]) -> Any:
        """Return the outputs of the wrapped module."""
        with torch.autocast(self.device_type, dtype=self.dtype):
            return self.module(*views)


def in_precision(module: nn.Module, amp: str, device: torch.device) -> nn.Module:
    """Return ``module`` computing in ``amp``: ``off`` (float32), ``bf16`` or ``fp16``.

    Call it before ``parallel``, which replicates the module together with its precision.
    """
    return module if amp == "off" else MixedPrecision(module, amp, device)


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Return the peak GPU memory of this process so far as a metric for logs; none on a CPU."""
    if device.type != "cuda":
        return {}
    return {"gpu_memory_gb": torch.cuda.max_memory_reserved(device) / 1e9}


def default_workers(clips: ClipSet, device: torch.device) -> int:
    """Return the number of prefetch threads; they only help if the CPU prepares batches for a GPU."""
    return 2 if device.type == "cuda" and clips.frames.device.type == "cpu" else 0


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return ``x`` on ``device`` without waiting for the work that is queued there.

    A copy to a GPU is asynchronous only from pinned memory.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def place_clips(splits: Sequence[ClipSet], where: str, device: torch.device) -> list[ClipSet]:
    """Move the frames of ``splits``, which share those of a store, according to ``--data-device``.

    ``cpu`` keeps the memory map, ``cuda`` copies to the GPU (``UserError`` without one, or without enough
    free memory), ``auto`` copies if the frames fill less than ``AUTO_MEMORY_FRACTION`` of its free memory.
    """
    if where == "cuda" and device.type != "cuda":
        raise UserError("--data-device cuda: this run does not use a GPU; omit the flag")
    if where == "cpu" or device.type == "cpu":
        return list(splits)
    owners = {clips.frames_id: clips for clips in splits}
    size = sum(clips.frames.nbytes for clips in owners.values())
    free = torch.cuda.mem_get_info(device)[0]
    if where == "cuda" and size > free:
        raise UserError(
            f"--data-device cuda: the clips need {size / 1e9:.1f} GB, the GPU has {free / 1e9:.1f} GB "
            "free; use --data-device cpu"
        )
    if where == "auto" and size > AUTO_MEMORY_FRACTION * free:
        return list(splits)
    print(f"copying {size / 1e9:.2f} GB of clips to {device}", flush=True)
    moved = {name: clips.to(device) for name, clips in owners.items()}
    return [clips.with_frames_of(moved[clips.frames_id]) for clips in splits]
