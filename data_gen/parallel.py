"""A map over processes that keeps the order and a bounded number of results in memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Callable, Iterable, Iterator, TypeVar

from options.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_DEFAULT_WORKERS = 16  # of 60 MB each: together with this process, 1 GB of memory
THREADS = "OMP_NUM_THREADS"
TASKS_AHEAD = 4  # tasks a worker may be ahead of the consumer: bounds the memory


def default_workers() -> int:
    """One process for every core this process may use, within MAX_DEFAULT_WORKERS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MAX_DEFAULT_WORKERS)


def ordered_map(function: Callable[[Task], Result], tasks: Iterable[Task],
                workers: int) -> Iterator[Result]:
    """``map(function, tasks)`` computed by ``workers`` processes, results in the order of tasks.

    ``function`` is a module's top-level function. One worker means this process. Raises UserError
    where a worker process dies (most often: killed because memory ran out).
    """
    if workers <= 1:
        _keep_freed_memory()
        yield from map(function, tasks)
        return
    # "spawn" starts clean processes: no lock or thread of this one is copied half-way
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(workers, context, _start_worker,
                                                 (os.getpid(),)) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(function, task))
                if len(pending) > workers * TASKS_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError("a worker process was killed, most often because memory ran out; "
                            "try fewer --workers") from error
        finally:
            # Not Future.cancel: up to Python 3.11.3 the pool can then wait for ever (gh-94440).
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started meanwhile run numpy on one thread: more would compete with each other."""
    already = THREADS in os.environ
    os.environ.setdefault(THREADS, "1")
    try:
        yield
    finally:
        if not already:
            del os.environ[THREADS]


def _start_worker(parent: int) -> None:
    """Ctrl-C is the parent's to handle; and a worker must not outlive a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_freed_memory()

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _keep_freed_memory() -> None:
    """Have the C library keep freed arrays of some 100 kB for the next ones instead of returning
    them to the system, which then zeroes each page again: half of the time of reading a file."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not the GNU C library
        return
    trim_threshold, mmap_threshold = -1, -3  # names of these settings in malloc.h
    mallopt(trim_threshold, 1 << 27)
    mallopt(mmap_threshold, 1 << 25)
