"""The log of a run in its folder: ``config.json``, ``log.jsonl`` and TensorBoard events."""

from __future__ import annotations

import argparse
import json
import math
import os
import textwrap
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from utils.errors import first_line
from utils.files import atomic_write, write_json
from utils.standard_streams import encodable

CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
STEPS_FOLDER = "steps"  # TensorBoard events whose x axis is the step, not the epoch
FIRST_LINE, NEXT_LINES = 60, 300  # seconds between lines of StepReport


def config_text(args: argparse.Namespace) -> str:
    """Return the flags of a run, wrapped for a terminal."""
    flags = ", ".join(f"{name}={value}" for name, value in sorted(vars(args).items()))
    return textwrap.fill(f"config: {flags}", 110, subsequent_indent="  ", break_on_hyphens=False)


def open_events(folder: Path, first_epoch: int) -> Any:
    """Return TensorBoard's writer, or None with a note if it is not installed or does not work."""
    try:
        os.fsencode(folder).decode()  # TensorBoard accepts UTF-8 paths only
        from torch.utils.tensorboard import SummaryWriter  # imported here: it may be missing or broken

        return SummaryWriter(str(folder), purge_step=first_epoch)
    except Exception as error:  # a protobuf that does not fit raises TypeError, for example
        print(f"note: no TensorBoard files in {folder} ({first_line(error)})")
        return None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a ``log.jsonl``; there are none if the file does not exist.

    Lines that were cut off when an earlier process was killed are skipped.
    """
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        with suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            entries.append({**entry, "epoch": int(entry["epoch"])})
    return entries


def position_text(epoch: int, step: int) -> str:
    """Return the position of a training after ``step`` steps of ``epoch``; epochs are displayed from 1."""
    return f"epoch {epoch + 1}, step {step}"


def step_bar(epoch: int, steps: int, done: int, disable: bool | None = None) -> tqdm:
    """Return the progress bar of an epoch; None for ``disable`` shows it on terminals only."""
    style = {"unit": "step", "leave": False, "dynamic_ncols": True}
    return tqdm(total=steps, initial=done, desc=f"epoch {epoch + 1}", disable=disable, **style)


class RemainingTime:
    """Estimates the remaining time of a run of ``steps`` steps.

    The first call starts the measurement: it excludes the setup and slower first steps.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._first: tuple[int, float] | None = None  # step and time of the first call

    def after(self, done: int) -> float:
        """Return the remaining seconds after ``done`` steps; NaN if no steps have been measured."""
        now = time.monotonic()
        self._first = self._first or (done, now)
        first, start = self._first
        return (now - start) / (done - first) * (self.steps - done) if done > first else math.nan


def duration(seconds: float) -> str:
    """Return a duration as hours and minutes, or as minutes with one decimal if it is short."""
    minutes = seconds / 60
    if math.isnan(minutes):
        return "? min"
    return f"{minutes:.1f} min" if minutes < 60 else f"{minutes // 60:.0f} h {minutes % 60:02.0f} min"


class StepReport:
    """Reports the loss between the ends of epochs, as the mean over ``every`` steps or more.

    It is shown in the progress bar and added to TensorBoard. Without a terminal, a line is printed after the
    first minute and then every five minutes.
    """

    def __init__(self, log: RunLog, every: int, estimate: RemainingTime) -> None:
        self._log, self._every, self._estimate = log, every, estimate
        self._next_line = time.monotonic() + FIRST_LINE
        self._loss, self._steps = 0.0, 0

    def add(self, bar: tqdm, loss: float, steps: int, done: int) -> None:
        """Add the sum of the ``loss`` over ``steps`` steps, after ``done`` steps of the run."""
        left = f"{duration(self._estimate.after(done))} left"
        self._loss, self._steps = self._loss + loss, self._steps + steps
        if self._steps < self._every:
            return
        mean = self._loss / self._steps
        self._loss, self._steps = 0.0, 0
        self._log.step(done, mean)
        bar.set_postfix_str(f"loss {mean:.3f}, {left}")
        if bar.disable and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + NEXT_LINES
            print(f"step {done}/{self._estimate.steps}  loss {mean:.4f}  {left}", flush=True)


class RunLog:
    """Writes the flags ``args`` once and the metrics of every epoch, one JSON object per line.

    A run that resumes at ``first_epoch`` removes the lines, and hides the TensorBoard events, of epochs that
    it repeats.
    """

    def __init__(self, folder: Path, args: argparse.Namespace, first_epoch: int) -> None:
        self._config, self._path = vars(args), folder / LOG_FILE
        write_json(folder / CONFIG_FILE, self._config)
        earlier = [entry for entry in read_log(self._path) if entry["epoch"] < first_epoch]
        lines = [json.dumps(entry) + "\n" for entry in earlier]
        atomic_write(self._path, lambda file: file.write("".join(lines).encode()))
        self._folder, self._events = folder, open_events(folder, first_epoch)
        self._step_events: Any = None

    def epoch(self, prefix: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a finished epoch; ``prefix`` groups them in TensorBoard."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **metrics}) + "\n")
        for name, value in metrics.items():
            self._add("scalar", f"{prefix}/{name}", value, epoch)

    def step(self, step: int, loss: float) -> None:
        """Write the loss of the steps before ``step`` to TensorBoard."""
        if self._events is not None:
            self._step_events = self._step_events or open_events(self._folder / STEPS_FOLDER, step)
            self._add("scalar", "pretrain/loss", loss, step, events=self._step_events)

    def image(self, name: str, image: Tensor, step: int = 0) -> None:
        """Add an image ``(3, height, width)`` to TensorBoard."""
        self._add("image", encodable(name), image, step)

    def hyperparameters(self, metrics: Mapping[str, float]) -> None:
        """Add the flags and the final metrics to TensorBoard's table that compares runs."""
        flags = {k: v if isinstance(v, (int, float)) else encodable(str(v)) for k, v in self._config.items()}
        last = {f"last/{name}": value for name, value in metrics.items()}
        self._add("hparams", flags, last, run_name=".")  # into the run's own folder

    def _add(self, kind: str, *values: Any, events: Any = None, **settings: Any) -> None:
        """Add something to the TensorBoard events; if TensorBoard fails, a note is printed once."""
        if self._events is None:
            return
        try:
            getattr(events or self._events, f"add_{kind}")(*values, **settings)
        except OSError:  # a full disk
            raise
        except Exception as error:  # TensorBoard does not fit the versions of protobuf or NumPy
            print(f"note: no further TensorBoard files ({first_line(error)})")
            self._events = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        for events in (self._events, self._step_events):
            if events is not None:
                events.close()
