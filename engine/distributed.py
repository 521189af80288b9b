"""Several processes, one GPU each, started by ``torchrun`` on one machine or on several.

All of them draw the same order and the same views; each encodes its share of every batch. What
they must agree on goes through a ``Group``, which for a single process does nothing.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Iterator, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from options.errors import UserError

Value = TypeVar("Value")

TIMEOUT = timedelta(minutes=30)  # a process may wait so long for another, which may be saving


@dataclass(frozen=True)
class Group:
    """The processes of a run, and which one this is; a group of one where nothing else was said."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """Which of ``count`` clips of a batch are this process's; its size divides ``count``."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, local: Tensor) -> Tensor:
        """``(N, ...)`` of every process as ``(size * N, ...)``, in the order of the batch."""
        if self.size == 1:
            return local
        parts = [torch.empty_like(local) for _ in range(self.size)]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    def sum(self, local: Tensor) -> Tensor:
        """The sum over the processes, in every one of them."""
        if self.size == 1:
            return local
        total = local.clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether ``flag`` is set in any process."""
        if self.size == 1:
            return flag
        return self.sum(torch.tensor(float(flag), device=device)).item() > 0

    def first(self, value: Value) -> Value:
        """The first process's ``value``."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]


def processes() -> int:
    """How many processes ``torchrun`` started; one where it did not start this."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group() -> Iterator[Group]:
    """The group that ``torchrun`` made this process part of; only its first process prints."""
    if processes() == 1:
        yield Group()
        return
    cuda = torch.cuda.is_available()
    local_rank = int(os.environ["LOCAL_RANK"])
    if cuda and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"torchrun started process {local_rank} on a machine with {torch.cuda.device_count()} "
            "visible GPUs; lower --nproc-per-node"
        )
    if cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    group = Group(dist.get_rank(), dist.get_world_size())
    with open(os.devnull, "w") as nowhere:
        spoken, sys.stdout = sys.stdout, sys.stdout if group.is_main else nowhere
        try:
            yield group
        finally:
            sys.stdout = spoken
            dist.destroy_process_group()


def check_shards(group: Group, batch_size: int) -> None:
    """Refuse a batch that the processes cannot share equally."""
    if batch_size % group.size:
        raise UserError(
            f"--batch-size {batch_size} is the batch of all processes together: choose a multiple of "
            f"the {group.size} that run"
        )


def wrap(module: nn.Module, device: torch.device, group: Group) -> nn.Module:
    """``module`` with its gradients averaged over the processes of ``group``.

    BatchNorm's running statistics stay each process's own: nothing in training reads them, and the
    first process's are saved.
    """
    device_ids = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the argument has another name in new versions
        return nn.parallel.DistributedDataParallel(
            module, device_ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )
