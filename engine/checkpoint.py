"""The one place where checkpoints and results are written and read.

A file appears under its name only when it is whole: it is written beside, flushed to disk and
renamed. Checkpoints hold plain data and tensors and are read with ``weights_only=True``: nothing
in a file can run.
"""

from __future__ import annotations

import io
import pickle
import re
import time
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import torch

from options.errors import UserError, first_line, out_of_memory
from options.files import atomic_write

FORMAT_VERSION = 1
SAVE_MINUTES = 10.0  # between two writings of a rolling checkpoint where no flag says otherwise
LAST = "checkpoint_last.pth.tar"  # written every few minutes, and when a pretraining is stopped


def checkpoint_name(epoch: int) -> str:
    """The released program's file names; the epoch is the last one finished, from zero."""
    return f"checkpoint_{epoch:04d}.pth.tar"


def save_checkpoint(path: Path, state: dict) -> None:
    """Save ``state`` with this program's format version."""
    atomic_write(path, lambda file: torch.save({"format_version": FORMAT_VERSION, **state}, file))


class RollingCheckpoint:
    """One checkpoint that is written anew every so many minutes, for a run that may be killed."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self._seconds = path, 60.0 * minutes
        self._due = time.monotonic() + self._seconds

    def save_if_due(self, state: Callable[[], dict]) -> None:
        """Save ``state()`` where the minutes are over; they count from the end of the last save."""
        if time.monotonic() >= self._due:
            save_checkpoint(self.path, state())
            self._due = time.monotonic() + self._seconds


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint, ours or the authors', onto the CPU; a damaged file is one sentence."""
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*.pth.tar"))[-5:]
        hint = f"; that folder has {', '.join(near)}" if near else ""
        raise UserError(f"there is no checkpoint {path}{hint}")
    try:
        data = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})")
    whole = False
    try:
        whole = zipfile.is_zipfile(data)
        # torch does not look at the archive's checksums: a flipped bit would be a wrong weight.
        if whole and (member := zipfile.ZipFile(data).testzip()):
            raise ValueError(f"the checksum of {member} is wrong")
        if not whole and data.getvalue()[:2] == b"PK":
            raise ValueError("its end is missing")
        data.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged file must not print torch's advice
            content = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        if whole and out_of_memory(error):
            raise
        raise UserError(f"{path} is damaged or no checkpoint ({reason(error)}); use another one")
    check_content(path, content)
    return content


def reason(error: Exception) -> str:
    """Why torch did not read a file, without its advice to read it unguarded."""
    if not isinstance(error, pickle.UnpicklingError):
        return first_line(error)
    asked = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
    return f"it asks for {asked[1]}, which no checkpoint needs" if asked else "its pickle is not of tensors"


def check_content(path: Path, content: object) -> None:
    """Refuse what is no checkpoint, or one of another format version."""
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path} holds no 'state_dict'; it is no checkpoint of this method")
    version = content.get("format_version", FORMAT_VERSION)
    if type(version) is not int or version != FORMAT_VERSION:
        shown = version if isinstance(version, (int, float, str)) else type(version).__name__
        raise UserError(
            f"{path} has checkpoint format {shown!r:.40}, this program reads {FORMAT_VERSION}; use the "
            "version that wrote it"
        )
    for name in ("seed", "epoch", "step"):
        if name in content and type(content[name]) is not int:
            raise UserError(f"{path} holds no number as its {name}; use another one")


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Around what takes weights and state out of a checkpoint: what does not fit is a sentence."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if out_of_memory(error):
            raise
        raise UserError(
            f"{path} does not hold what a checkpoint of its kind should ({type(error).__name__}: "
            f"{first_line(error)}); use another one"
        )


def is_ours(checkpoint: dict) -> bool:
    """Whether a loaded checkpoint was written by this program, not by the released one."""
    return "format_version" in checkpoint


def checkpoints_in(folder: Path) -> list[Path]:
    """A pretraining's checkpoints: numbered ones in order, then the rolling one."""
    numbered = (p for p in folder.glob("*.tar") if re.fullmatch(r"checkpoint_\d+\.pth\.tar", p.name))
    last = folder / LAST
    return sorted(numbered, key=lambda p: (len(p.name), p.name)) + ([last] if last.is_file() else [])


def newest_checkpoint(folder: Path) -> tuple[Path, dict] | None:
    """The checkpoint that stands furthest, by what it says itself, and its content.

    A damaged one is named and passed over for the one before.
    """
    newest = None
    for path in reversed(checkpoints_in(folder)):
        try:
            content = load_checkpoint(path)
        except UserError as error:
            print(f"{str(error).removesuffix('; use another one')}: falling back to the one before")
            continue
        if newest is None or position(content) > position(newest[1]):
            newest = path, content
        if path.name != LAST:  # numbered ones are in order
            break
    return newest


def position(checkpoint: dict) -> tuple[int, ...]:
    """Epoch and step that come next, by what the checkpoint says; the authors' have no step."""
    values = (checkpoint.get(name) for name in ("epoch", "step"))
    return tuple(value if isinstance(value, int) else 0 for value in values)
