"""The log of a run in its folder: ``config.json``, ``log.jsonl`` and TensorBoard events."""

from __future__ import annotations

import argparse
import json
import os
import textwrap
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


def step_bar(epoch: int, steps: int, done: int, disable: bool | None = None) -> tqdm:
    """Return the progress bar of an epoch; None for ``disable`` shows it on terminals only."""
    style = {"unit": "step", "leave": False, "dynamic_ncols": True}
    return tqdm(total=steps, initial=done, desc=f"epoch {epoch}", disable=disable, **style)


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
        self._events = open_events(folder, first_epoch)

    def epoch(self, prefix: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a finished epoch; ``prefix`` groups them in TensorBoard."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **metrics}) + "\n")
        for name, value in metrics.items():
            self._add("scalar", f"{prefix}/{name}", value, epoch)

    def image(self, name: str, image: Tensor, step: int = 0) -> None:
        """Add an image ``(3, height, width)`` to TensorBoard."""
        self._add("image", encodable(name), image, step)

    def hyperparameters(self, metrics: Mapping[str, float]) -> None:
        """Add the flags and the final metrics to TensorBoard's table that compares runs."""
        flags = {k: v if isinstance(v, (int, float)) else encodable(str(v)) for k, v in self._config.items()}
        last = {f"last/{name}": value for name, value in metrics.items()}
        self._add("hparams", flags, last, run_name=".")  # into the run's own folder

    def _add(self, kind: str, *values: Any, **settings: Any) -> None:
        """Add something to the TensorBoard events; if TensorBoard fails, a note is printed once."""
        if self._events is None:
            return
        try:
            getattr(self._events, f"add_{kind}")(*values, **settings)
        except OSError:  # a full disk
            raise
        except Exception as error:  # TensorBoard does not fit the versions of protobuf or NumPy
            print(f"note: no further TensorBoard files ({first_line(error)})")
            self._events = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._events:
            self._events.close()
