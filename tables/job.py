"""One command to run: what it writes when it is done, and what it waits for."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Job:
    """``command`` is a script and its flags, without the interpreter."""

    name: str  # unique, in words; also of its log
    command: tuple[str, ...]
    result: Path  # is there when the job is done, and not before
    needs: tuple[Job, ...] = ()

    @property
    def is_done(self) -> bool:
        return self.result.exists()

    @property
    def text(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(["python", *self.command])


def command(script: str, flags: dict) -> tuple[str, ...]:
    """A script of this program with ``flags``, whose names are spelled with underscores.

    True is a flag without a value, None and False leave it out, a list or tuple is several values.
    """
    parts = [os.path.relpath(REPOSITORY / script)]
    for name, value in flags.items():
        if value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        parts += ["--" + name.replace("_", "-"), *map(str, values)]
    return tuple(parts)


def in_order(jobs: Iterable[Job], only_left: bool = False) -> list[Job]:
    """Every job once, after those that it needs, which are put in.

    ``only_left``: without those that are done, and without what only they need.
    """
    ordered: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.name in ordered or (only_left and job.is_done):
            return
        for needed in job.needs:
            add(needed)
        ordered[job.name] = job

    for job in jobs:
        add(job)
    return list(ordered.values())
