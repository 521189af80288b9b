"""Run jobs as child processes, several at a time; a failed job blocks only its dependents."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from engine.signals import EXIT_RESUMABLE, StopRequest
from utils.errors import EXIT_INTERRUPTED, UserError
from utils.files import ensure_folder

REPOSITORY = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.1
# Exit codes of a job that was asked to stop: after saving, or before there was anything to save.
STOPPED_CODES = {EXIT_RESUMABLE, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, EXIT_INTERRUPTED}


@dataclass(frozen=True)
class Job:
    """One command, the file that it produces and the jobs that it depends on."""

    name: str  # unique; also names the log
    command: tuple[str, ...]  # a script and its flags, without the interpreter
    output: Path  # exists only once the job is finished
    dependencies: tuple[Job, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether the output exists."""
        return self.output.exists()

    @property
    def command_line(self) -> str:
        """The command as a line of shell."""
        return shlex.join(["python", *self.command])


def script_command(script: str, flags: Mapping[str, Any]) -> tuple[str, ...]:
    """Build the command of a script of this repository.

    Args:
        script: path from the root of the repository.
        flags: names with underscores. True: a flag without a value; None or False: the flag is
            omitted; a list or tuple: several values.
    """
    parts = [os.path.relpath(REPOSITORY / script)]
    for name, value in flags.items():
        if value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        parts += ["--" + name.replace("_", "-"), *map(str, values)]
    return tuple(parts)


def sort_jobs(jobs: Iterable[Job], skip_done: bool = False) -> list[Job]:
    """Return the jobs and all their dependencies, each once and after its own dependencies.

    With ``skip_done``, finished jobs and jobs that only finished ones depend on are left out.
    """
    ordered: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.name in ordered or (skip_done and job.is_done):
            return
        for dependency in job.dependencies:
            add(dependency)
        ordered[job.name] = job

    for job in jobs:
        add(job)
    return list(ordered.values())


@dataclass
class RunSummary:
    """The names of the jobs that finished and failed, and whether the run was interrupted."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name -> reason
    stopped: bool = False

    def check_complete(self, logs: Path) -> None:
        """Raise ``UserError`` unless every job finished."""
        if self.failed:
            name, reason = next(iter(self.failed.items()))
            raise UserError(f"{len(self.failed)} jobs failed, the first is {name}: {reason}; see also {logs}")
        if self.stopped:
            raise UserError("stopped; run the same command again to continue")


@dataclass
class RunningJob:
    """A child process, its log and its start time."""

    job: Job
    process: subprocess.Popen
    log: IO[bytes]
    started: float

    def failure_reason(self) -> str:
        """Return the signal that ended the process, or the last line of its log."""
        if self.process.returncode == 0:
            return f"exited with 0 but did not write {self.job.output}"
        return f"{describe_exit(self.process.returncode, Path(self.log.name))} ({self.log.name})"


def describe_exit(code: int, log: Path) -> str:
    """Return the signal that ended a failed process, or the last line of its log."""
    if code < 0:
        return f"terminated by {signal.Signals(-code).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else f"exited with {code}"


def end_with_parent() -> None:
    """Request SIGTERM at the death of the parent process, so that no job outlives a killed run (Linux)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def start(job: Job, environment: Mapping[str, str], logs: Path) -> RunningJob:
    """Start the job's command as a child process that appends its output to its log."""
    log = open(logs / (job.name.replace(" ", "_") + ".txt"), "ab")
    log.write(f"+ {job.command_line}\n".encode(errors="surrogateescape"))
    log.flush()
    process = subprocess.Popen(
        [sys.executable, *job.command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        preexec_fn=end_with_parent,
    )
    return RunningJob(job, process, log, time.monotonic())


def record(running: RunningJob, summary: RunSummary) -> str:
    """Add an ended job to the summary; return its status."""
    running.log.close()
    code, job = running.process.returncode, running.job
    if code == 0 and job.is_done:
        summary.done.append(job.name)
        return "done"
    if code in STOPPED_CODES:
        summary.stopped = True
        return "stopped"
    summary.failed[job.name] = running.failure_reason()
    return "FAILED"


def pop_ready(waiting: list[Job], summary: RunSummary) -> Job | None:
    """Remove and return the first job whose dependencies are done; drop jobs whose dependencies failed."""
    for job in list(waiting):
        failed = [dependency.name for dependency in job.dependencies if dependency.name in summary.failed]
        if failed:
            waiting.remove(job)
            summary.failed[job.name] = f"depends on {failed[0]}, which failed"
        elif all(dependency.is_done for dependency in job.dependencies):
            waiting.remove(job)
            return job
    return None


def run_jobs(jobs: Sequence[Job], slots: Sequence[Mapping[str, str]], logs: Path) -> RunSummary:
    """Run jobs in child processes, at most one per slot at a time.

    If this process or one of the jobs is asked to stop, all running jobs are asked to stop too (they
    save and exit) and no further job starts.

    Args:
        jobs: in an order in which each comes after its dependencies.
        slots: for each slot, the environment variables added for its jobs.
        logs: folder for the output of the jobs; created if missing.
    """
    ensure_folder(logs)
    summary, waiting = RunSummary(), list(jobs)
    free_slots, running = list(range(len(slots))), dict[int, RunningJob]()
    terminated = False
    with StopRequest() as stop:
        try:
            while True:
                stopping = stop.requested or summary.stopped
                if stopping and not terminated:
                    terminate(running.values())
                    terminated = True
                while free_slots and not stopping and (job := pop_ready(waiting, summary)):
                    slot = free_slots.pop(0)
                    running[slot] = start(job, slots[slot], logs)
                if not running:
                    break
                time.sleep(POLL_SECONDS)
                for slot in [slot for slot, child in running.items() if child.process.poll() is not None]:
                    child = running.pop(slot)
                    status = record(child, summary)
                    count, seconds = len(summary.done) + len(summary.failed), time.monotonic() - child.started
                    print(f"[{count}/{len(jobs)}] {seconds:5.1f} s  {status}: {child.job.name}", flush=True)
                    free_slots.append(slot)
        finally:  # normally nothing is left running; only after a second Ctrl-C
            terminate(running.values())
        summary.stopped |= stop.requested
    return summary


def terminate(running: Iterable[RunningJob]) -> None:
    """Ask the jobs to stop."""
    for child in running:
        child.process.terminate()
