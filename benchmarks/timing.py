"""Timing of programs that are compared with each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Medians = tuple[float, float, float]  # wall seconds, CPU seconds of all threads, returned value


def time_in_turn(
    programs: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 0
) -> dict[str, Medians]:
    """Return the medians of ``repeats`` runs; each repeat runs every program, as the machine may be busy.

    Args:
        programs: what to run by name; a program may return a float, such as an accuracy.
        repeats: measured runs of each program.
        warm_up: runs of each program before the measured ones.
    """
    runs: dict[str, list[Medians]] = {name: [] for name in programs}
    for repeat in range(warm_up + repeats):
        for name, program in programs.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            value = program()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if repeat >= warm_up:
                seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
                runs[name].append((seconds, cpu_seconds, value if isinstance(value, float) else 0.0))
    return {name: tuple(map(statistics.median, zip(*values))) for name, values in runs.items()}


def seconds_of(program: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of one program after two runs to warm up."""
    return time_in_turn({"": program}, repeats, warm_up=2)[""][0]
