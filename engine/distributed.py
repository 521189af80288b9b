"""Several processes, one GPU each, started by ``torchrun`` on one machine or on several.

All processes sample the same order and the same views, and each encodes its shard of every batch.
Whatever they must agree on goes through a ``Group``, which does nothing for a single process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import UserError

Value = TypeVar("Value")

TIMEOUT = timedelta(minutes=30)  # a process may wait this long, e.g. while the first one saves


@dataclass(frozen=True)
class Group:
    """The processes of a run and the rank of this one; by default, a single process."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """Return this process's part of a batch of ``count`` clips, a multiple of ``size``."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, local: Tensor) -> Tensor:
        """Concatenate ``(N, ...)`` of every process to ``(size * N, ...)``, in the order of the batch."""
        if self.size == 1:
            return local
        parts = [torch.empty_like(local) for _ in range(self.size)]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    def sum(self, local: Tensor) -> Tensor:
        """Return the sum over the processes, in every one of them."""
        if self.size == 1:
            return local
        total = local.clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether ``flag`` is set in any process; synchronizes with the device."""
        if self.size == 1:
            return flag
        return self.sum(torch.tensor(float(flag), device=device)).item() > 0

    def gather_objects(self, value: Value) -> list[Value]:
        """Return the ``value`` of every process, in the order of their ranks."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def first(self, value: Value) -> Value:
        """Return the ``value`` of the first process."""
        return self.gather_objects(value)[0]

    def agree(self, value: object, problem: str) -> None:
        """Raise ``UserError`` in all processes unless they have the same ``value``."""
        values = self.gather_objects(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise UserError(f"{problem}: {values[0]} in process 0, but {other} in process {rank}")

    @contextmanager
    def same_outcome(self) -> Iterator[None]:
        """Raise an error of one process in all of them at the end of the ``with`` block.

        Otherwise the others would wait in their next collective. The block must not contain any.
        """
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        messages = self.gather_objects(error and str(error))
        if error is not None:
            raise error
        for rank, message in enumerate(messages):
            if message is not None:
                raise UserError(f"{message} (in process {rank})")


SINGLE_PROCESS = Group()


def processes() -> int:
    """Return the number of processes that ``torchrun`` started for this run; 1 without it.

    Those of other launchers are separate runs, of which the lock on the folder stops all but one.
    """
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def require_one_process(task: str) -> None:
    """Raise ``UserError`` if torchrun started several processes, which would all do the same ``task``."""
    if processes() > 1:
        raise UserError(f"{task} is one process that uses all visible GPUs: start it without torchrun")


@contextmanager
def process_group() -> Iterator[Group]:
    """Join the group of processes that ``torchrun`` started; only its first process prints.

    Raises ``UserError`` if there are more processes than visible GPUs on this machine.
    """
    if processes() == 1:
        yield SINGLE_PROCESS
        return
    cuda, local_rank = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
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
        stdout, sys.stdout = sys.stdout, sys.stdout if group.is_main else nowhere
        try:
            yield group
        except RuntimeError as error:
            if "by peer" not in str(error):  # closed or reset: the message of gloo
                raise
            raise UserError("another process of this run has ended; its message states the reason") from error
        finally:
            sys.stdout = stdout
    # Not after an error: it would wait for the other processes before the message is printed.
    dist.destroy_process_group()


def check_shards(group: Group, batch_size: int) -> None:
    """Raise ``UserError`` if the batch size is not divisible by the number of processes."""
    if batch_size % group.size:
        raise UserError(
            f"--batch-size {batch_size} is the global batch size: choose a multiple of the number of "
            f"processes, {group.size}"
        )
