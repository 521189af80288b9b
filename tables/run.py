"""Runs jobs as child processes, some at a time; one that fails stops only those that need it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Mapping, Sequence

from options.files import ensure_folder
from engine.signals import EXIT_RESUMABLE, StopRequest

from .job import Job

POLL_SECONDS = 0.1
# Exit codes of a job that was asked to stop: saved, or so early that there was nothing to save.
ASKED_TO_STOP = {EXIT_RESUMABLE, -signal.SIGTERM, -signal.SIGINT, 130}


@dataclass
class Outcome:
    """What became of the jobs, by their names."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # with the reason
    stopped: bool = False


@dataclass
class Running:
    """A job's process, its log, and when it began."""

    job: Job
    process: subprocess.Popen
    log: IO[bytes]
    began: float

    def reason(self) -> str:
        """Why it failed: the signal that ended it, or the last line that it wrote."""
        code = self.process.returncode
        if code < 0:
            return f"ended by {signal.Signals(-code).name} ({self.log.name})"
        if code == 0:
            return f"it ended well and did not write {self.job.result}"
        lines = Path(self.log.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1].strip()} ({self.log.name})"


def end_with_parent() -> None:
    """In a child: ask it to stop should this program be killed, so that no job is left behind (Linux)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def start(job: Job, environment: Mapping[str, str], logs: Path) -> Running:
    """The job's command as a child process; what it writes is added to its log."""
    log = open(logs / (job.name.replace(" ", "_") + ".txt"), "ab")
    log.write(f"+ {job.text}\n".encode())
    log.flush()
    process = subprocess.Popen(
        [sys.executable, *job.command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        env={**os.environ, **environment}, preexec_fn=end_with_parent,
    )
    return Running(job, process, log, time.monotonic())


def finish(running: Running, outcome: Outcome) -> str:
    """Book what has ended; returns a word for it."""
    running.log.close()
    code, job = running.process.returncode, running.job
    if code == 0 and job.is_done:
        outcome.done.append(job.name)
        return "done"
    if code in ASKED_TO_STOP:
        outcome.stopped = True
        return "stopped"
    outcome.failed[job.name] = running.reason()
    return "FAILED"


def take_ready(waiting: list[Job], outcome: Outcome) -> Job | None:
    """Take out the first job that has all it needs, and those that will never have it."""
    for job in list(waiting):
        broken = [needed.name for needed in job.needs if needed.name in outcome.failed]
        if broken:
            waiting.remove(job)
            outcome.failed[job.name] = f"it needs {broken[0]}, which failed"
        elif all(needed.is_done for needed in job.needs):
            waiting.remove(job)
            return job
    return None


def run_jobs(jobs: Sequence[Job], slots: Sequence[Mapping[str, str]], logs: Path) -> Outcome:
    """Run ``jobs``, which come after those that they need, as many at a time as there are ``slots``.

    A slot is what is added to the environment of its job. Where this program is asked to stop, or
    one of the jobs was, the others are asked too: they save and end, and no other is begun.
    """
    ensure_folder(logs)
    outcome, waiting = Outcome(), list(jobs)
    free, running = list(range(len(slots))), {}
    asked = False
    with StopRequest() as stop:
        try:
            while True:
                stopping = stop.requested or outcome.stopped
                if stopping and not asked:
                    ask_to_stop(running)
                    asked = True
                while free and not stopping and (job := take_ready(waiting, outcome)):
                    slot = free.pop(0)
                    running[slot] = start(job, slots[slot], logs)
                if not running:
                    break
                time.sleep(POLL_SECONDS)
                for slot in [slot for slot, one in running.items() if one.process.poll() is not None]:
                    report(finish(running[slot], outcome), running.pop(slot), outcome, len(jobs))
                    free.append(slot)
        finally:  # nothing is running any more, but after a second Ctrl-C
            ask_to_stop(running)
        outcome.stopped |= stop.requested
    return outcome


def ask_to_stop(running: Mapping[int, Running]) -> None:
    for one in running.values():
        one.process.terminate()


def report(word: str, one: Running, outcome: Outcome, total: int) -> None:
    """One line for a job that has ended."""
    count = len(outcome.done) + len(outcome.failed)
    print(f"[{count}/{total}] {time.monotonic() - one.began:5.1f} s  {word}: {one.job.name}", flush=True)
