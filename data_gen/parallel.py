"""A map over processes that keeps the order and bounds the number of results in memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from utils.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_DEFAULT_WORKERS = 16  # about 60 MB each: 1 GB in total
THREADS = "OMP_NUM_THREADS"
TASKS_AHEAD = 4  # per worker, submitted before their results are consumed; bounds the memory


def default_workers() -> int:
    """Return the number of cores that this process may use, at most ``MAX_DEFAULT_WORKERS``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MAX_DEFAULT_WORKERS)


def ordered_map(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Yield the results of ``map(function, tasks)``, computed in ``workers`` processes, in their order.

    The function is a top-level one; one worker is the current process. Tasks are consumed as results are,
    with a bounded lead. Raises ``UserError`` if a worker dies, most often because it ran out of memory.
    """
    if workers <= 1:
        _keep_freed_memory()
        yield from map(function, tasks)
        return
    # "spawn" starts clean processes: no lock or thread is copied in an undefined state
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (os.getpid(),))
    with _single_threaded_processes(), pool:
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(function, task))
                if len(pending) > workers * TASKS_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, most often because memory ran out; try fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _single_threaded_processes() -> Iterator[None]:
    """Let processes that start in the block run numpy on one thread each; more threads would compete."""
    is_set = THREADS in os.environ
    os.environ.setdefault(THREADS, "1")
    try:
        yield
    finally:
        if not is_set:
            del os.environ[THREADS]


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and exit if the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_freed_memory()
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _keep_freed_memory() -> None:
    """Let the C library reuse freed arrays of about 100 kB instead of returning them to the system.

    The system zeroes every page that it hands out again, which takes half of the time of reading a file.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not the GNU C library
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt(trim_threshold, 1 << 27)
    mallopt(mmap_threshold, 1 << 25)
