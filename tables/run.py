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
from typing import Any

from engine.signals import EXIT_RESUMABLE, StopRequest
from utils.errors import EXIT_INTERRUPTED, UserError
from utils.files import ensure_folder

REPOSITORY = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.1
# Exit codes of a job that was asked to stop: after saving, or before there was anything to save.
STOPPED_CODES = {EXIT_RESUMABLE, EXIT_INTERRUPTED, *(-number for number in StopRequest.SIGNALS)}


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
    """Build the command of a script, a path from the root of the repository, with ``flags`` (underscores).

    A value of True is a flag without a value, None or False omits it, a list or tuple is several values.
    """
    parts = [os.path.relpath(REPOSITORY / script)]
    for name, value in flags.items():
        if value is not None and value is not False:
            values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
            parts += ["--" + name.replace("_", "-"), *map(str, values)]
    return tuple(parts)


def sort_jobs(jobs: Iterable[Job], skip_done: bool = False) -> list[Job]:
    """Return the jobs and their dependencies, each once, in order; ``skip_done``: those to be run."""
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


def end_with_parent() -> None:
    """Request SIGTERM at the death of the parent process, so that no job outlives a killed run (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG of prctl(2)


class RunningJob:
    """A child process that runs a job, with further environment variables, and appends to its log."""

    def __init__(self, job: Job, environment: Mapping[str, str], logs: Path) -> None:
        self.job, self.started = job, time.monotonic()
        self.log = logs / (job.name.replace(" ", "_") + ".txt")
        with open(self.log, "ab") as log:
            log.write(f"+ {job.command_line}\n".encode(errors="surrogateescape"))
            log.flush()
            self.process = subprocess.Popen(
                [sys.executable, *job.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                preexec_fn=end_with_parent if sys.platform == "linux" else None,  # Windows has none
            )

    def record(self, summary: RunSummary) -> str:
        """Add the ended job to the summary; return its status."""
        code, name = self.process.returncode, self.job.name
        if code == 0 and self.job.is_done:
            summary.done.append(name)
            return "done"
        if code in STOPPED_CODES:
            summary.stopped = True
            return "stopped"
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = f"terminated by {signal.Signals(-code).name}" if code < 0 else lines[-1].strip()
        summary.failed[name] = f"{reason if code else f'did not write {self.job.output}'} ({self.log})"
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
    """Run jobs, each after its dependencies in the list, in child processes, at most one per slot at a time.

    If this process or one of the jobs is asked to stop, all running jobs are asked to stop too (they save and
    exit) and no further job starts. ``slots`` are the environment variables added for the jobs of each slot;
    the folder ``logs`` for their output is created if missing.
    """
    ensure_folder(logs)
    summary, waiting, stopping = RunSummary(), list(jobs), False
    running: dict[int, RunningJob] = {}  # by slot
    with StopRequest() as stop:
        try:
            while True:
                if not stopping and (stop.requested or summary.stopped):
                    stopping = True
                    waiting.clear()
                    for child in running.values():
                        child.process.terminate()
                for slot in range(len(slots)):
                    if slot not in running and (job := pop_ready(waiting, summary)):
                        running[slot] = RunningJob(job, slots[slot], logs)
                if not running:
                    break
                time.sleep(POLL_SECONDS)
                for slot, child in list(running.items()):
                    if child.process.poll() is not None:
                        status = running.pop(slot).record(summary)
                        count = f"[{len(summary.done) + len(summary.failed)}/{len(jobs)}]"
                        seconds = time.monotonic() - child.started
                        print(f"{count} {seconds:5.1f} s  {status}: {child.job.name}", flush=True)
        finally:  # normally nothing is left running; only after a second Ctrl-C
            for child in running.values():
                child.process.terminate()
        summary.stopped |= stop.requested
    return summary
