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

from utils.errors import UserError, first_line, skip_finalization

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

    def first(self, value: Value) -> Value:
        """Return the ``value`` of the first process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]


SINGLE_PROCESS = Group()

TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # variables that it sets
# Variables with the number of tasks of other launchers; SLURM sets the first one in job steps only.
LAUNCHERS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
}
HOW_TO_START = (
    "to use several GPUs start one process per machine, which runs torchrun --nproc-per-node=NUMBER_OF_GPUS "
    "SCRIPT (see script_slurm.sh)"
)


def integer_variable(name: str) -> int | None:
    """Return an environment variable as an integer, None if it is unset, empty or not an integer."""
    try:
        return int(os.environ.get(name, ""))
    except ValueError:
        return None


def processes(advice: str = HOW_TO_START) -> int:
    """Return the number of processes that ``torchrun`` started, 1 without torchrun.

    Other launchers set some of the variables of torchrun, too. If they are incomplete but describe a
    single process, a note is printed.

    Args:
        advice: how to start the script, for messages.

    Raises:
        UserError: the variables describe several processes that cannot be joined.
    """
    given = {name: os.environ[name] for name in TORCHRUN[:3] if name in os.environ}
    shown = " ".join(f"{name}={value}" for name, value in given.items())
    size, rank, local_rank = (integer_variable(name) for name in TORCHRUN[:3])
    if size is not None and rank is not None and local_rank is not None:
        check_torchrun_variables(shown, size, rank, local_rank)
        return size
    for variable, launcher in LAUNCHERS.items():
        if (tasks := integer_variable(variable) or 1) > 1:
            raise UserError(
                f"{launcher} started {tasks} processes ({variable}={tasks}), which would all do the same "
                f"work: {advice}"
            )
    if (size or 1) > 1 or (rank or 0) > 0:
        raise UserError(
            f"the environment has {shown}, but this process was not started by torchrun: unset these "
            f"variables to run a single process without torchrun; {advice}"
        )
    if given and given != {"WORLD_SIZE": "1"} and given != {"WORLD_SIZE": "1", "RANK": "0"}:
        print(
            f"note: {shown} in the environment is not from torchrun and is ignored: this is a single process"
        )
    if (tasks := integer_variable("SLURM_NTASKS") or 1) > 1:
        print(f"note: this is a single process, but SLURM has reserved {tasks} tasks: {advice}")
    return 1


def require_one_process(task: str) -> None:
    """Raise ``UserError`` if torchrun started several processes, which would all do the same ``task``."""
    advice = f"{task} is one process that uses all visible GPUs: start it without torchrun"
    if processes(advice) > 1:
        raise UserError(advice)


def check_torchrun_variables(shown: str, size: int, rank: int, local_rank: int) -> None:
    """Raise ``UserError`` unless the variables of torchrun are complete and consistent."""
    if size == 1:
        return
    if size < 1 or not 0 <= rank < size or local_rank < 0:
        raise UserError(
            f"the environment has {shown}, which is not possible: start with torchrun, or unset these "
            "variables to run a single process"
        )
    missing = [name for name in TORCHRUN if not os.environ.get(name, "").strip()]
    if missing:
        raise UserError(
            f"the environment has {shown} but not {' and '.join(missing)}: start with torchrun, or unset "
            "these variables to run a single process"
        )


@contextmanager
def process_group() -> Iterator[Group]:
    """Join the group of processes that ``torchrun`` started; only its first process prints.

    Raises:
        UserError: more processes than visible GPUs on this machine, or they cannot be joined.
    """
    if processes() == 1:
        yield SINGLE_PROCESS
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
    skip_finalization()
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"cannot join the processes of torchrun at {address} ({first_line(error)}): start again with "
            "torchrun, or unset WORLD_SIZE to run a single process"
        ) from error
    group = Group(dist.get_rank(), dist.get_world_size())
    with open(os.devnull, "w") as nowhere:
        stdout, sys.stdout = sys.stdout, sys.stdout if group.is_main else nowhere
        try:
            yield group
        finally:
            sys.stdout = stdout
            dist.destroy_process_group()


def check_shards(group: Group, batch_size: int) -> None:
    """Raise ``UserError`` if the batch size is not divisible by the number of processes."""
    if batch_size % group.size:
        raise UserError(
            f"--batch-size {batch_size} is the global batch size: choose a multiple of the number of "
            f"processes, {group.size}"
        )
