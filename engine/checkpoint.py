"""Saving and loading checkpoints.

Checkpoints contain plain data and tensors and are loaded with ``weights_only=True``, so no code in a
file is executed. They are written atomically (``utils.files``).
"""

from __future__ import annotations

import io
import pickle
import re
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import UserError, first_line, out_of_memory
from utils.files import atomic_write

FORMAT_VERSION = 1
SHOWN_NAMES = 3  # names of weights in an error message
SAVE_MINUTES = 10.0  # default interval between saves of a rolling checkpoint
WRAPPERS = ("module", "_orig_mod")  # in names of weights that were saved from a wrapped model
LAST = "checkpoint_last.pth.tar"  # the rolling checkpoint of a pretraining
BEST_KNN = "checkpoint_best_knn.pth.tar"  # the one with the highest accuracy of --monitor-knn


def checkpoint_name(epoch: int) -> str:
    """Return the file name used by the official code; ``epoch`` (0-based) is the last finished one."""
    return f"checkpoint_{epoch:04d}.pth.tar"


def save_checkpoint(path: Path, state: dict) -> None:
    """Save ``state`` with the format version."""
    atomic_write(path, lambda file: torch.save({"format_version": FORMAT_VERSION, **state}, file))


class RollingCheckpoint:
    """A checkpoint that is overwritten at a fixed interval, so that a killed run can be resumed."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self._seconds = path, 60.0 * minutes
        self._due = time.monotonic() + self._seconds

    def save_if_due(self, state: Callable[[], dict]) -> None:
        """Save ``state()`` if the interval since the end of the last save has passed."""
        if time.monotonic() >= self._due:
            save_checkpoint(self.path, state())
            self._due = time.monotonic() + self._seconds


def numpy_scalar(module: str) -> Callable:
    """Return NumPy's constructor of scalars under the name that a pickle of NumPy 1 or 2 has for it."""

    def scalar(dtype: np.dtype, data: bytes) -> Any:
        return np.frombuffer(data, dtype)[0]

    scalar.__module__, scalar.__qualname__ = module, "scalar"
    return scalar


# Official code stores accuracies as NumPy scalars; their construction runs no code of a file.
torch.serialization.add_safe_globals(
    [
        np.dtype,
        *(type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"),
        *(numpy_scalar(module) for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    ]
)


def load_checkpoint(path: Path) -> dict:
    """Load a checkpoint of this repository or of the official code onto the CPU.

    Raises ``UserError`` if it is missing, corrupted or not a checkpoint, or has another format version.
    """
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*.pth.tar"))[-5:]
        hint = f"; the folder contains {', '.join(near)}" if near else ""
        raise UserError(f"checkpoint {path} does not exist{hint}")
    try:
        data = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    intact = False
    try:
        intact = zipfile.is_zipfile(data)
        # torch does not verify the checksums of the archive: a flipped bit would be a wrong weight.
        if intact and (member := zipfile.ZipFile(data).testzip()):
            raise ValueError(f"wrong checksum of {member}")
        if not intact and data.getvalue()[:2] == b"PK":
            raise ValueError("the end of the file is missing")
        data.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice about corrupted files
            content = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # a corrupted file can raise almost anything
        if intact and out_of_memory(error):
            raise
        reason, name = load_error(error), forbidden_name(error)
        if intact and name:
            raise UserError(
                f"{path} is intact, but contains {name}, which is not allowed in a checkpoint: loading it "
                "could run code; if you trust the file, save only its weights: torch.save({'state_dict': "
                "torch.load(FILE, weights_only=False)['state_dict']}, NEW_FILE)"
            ) from error
        raise UserError(f"{path} is corrupted or not a checkpoint ({reason}); use another one") from error
    with checkpoint_errors(path):
        check_content(path, content)
    content["state_dict"] = without_wrappers(content["state_dict"])
    return content


def without_wrappers(state: dict) -> dict:
    """Remove what DataParallel, DistributedDataParallel and ``torch.compile`` add to names of weights."""
    plain = {}
    for name, value in state.items():
        parts = name.split(".") if isinstance(name, str) else [name]
        key = ".".join(part for part in parts if part not in WRAPPERS) if len(parts) > 1 else name
        plain[key] = value
    changed = len(plain) == len(state) and plain.keys() != state.keys()
    return plain if changed else state


def forbidden_name(error: Exception) -> str | None:
    """Return the class or function for which torch rejected a file, or None."""
    asked = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
    return asked[1] if asked and isinstance(error, pickle.UnpicklingError) else None


def load_error(error: Exception) -> str:
    """Describe why torch rejected a file, without its advice to load it unsafely."""
    if not isinstance(error, pickle.UnpicklingError):
        return first_line(error)
    if name := forbidden_name(error):
        return f"it contains {name}, which is not allowed in a checkpoint"
    return "its pickle contains more than tensors and plain data"


def check_content(path: Path, content: object) -> None:
    """Raise ``UserError`` if ``content`` is not a checkpoint or has another format version."""
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path} has no 'state_dict'; it is not a checkpoint of this method")
    version = content.get("format_version", FORMAT_VERSION)
    if type(version) is not int or version != FORMAT_VERSION:
        raise UserError(
            f"{path} has checkpoint format {version!r:.40}, but this version reads {FORMAT_VERSION}; use the "
            "version that wrote it"
        )


def state_error(error: BaseException) -> str:
    """Return torch's error of ``load_state_dict`` in one line: what is wrong with which weights.

    The names in a list are cut after ``SHOWN_NAMES``, and so are the lines. Other errors are cut to
    their first line.
    """
    if "state_dict" not in str(error):
        return first_line(error)
    title, *details = (line.strip() for line in str(error).strip().splitlines())
    shown = []
    for detail in details[:SHOWN_NAMES]:
        names = detail.split(", ")
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES + 2 else ""
        shown.append(", ".join(names[:SHOWN_NAMES] if more else names).rstrip(". ") + more)
    more = f"; and {len(details) - SHOWN_NAMES} more" if len(details) > SHOWN_NAMES else ""
    return f"{title.rstrip(':')}: {'; '.join(shown)}{more}" if shown else title[:160]


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Turn errors from restoring the content of the checkpoint ``path`` into ``UserError``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or out_of_memory(error):
            raise
        raise UserError(
            f"{path} does not have the expected content ({type(error).__name__}: {state_error(error)}); use "
            "another checkpoint"
        ) from error


def is_official(checkpoint: dict) -> bool:
    """Return whether a loaded checkpoint was written by the official code."""
    return "format_version" not in checkpoint


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a pretraining: numbered ones in order, then the rolling one."""
    numbered = (p for p in folder.glob("*.tar") if re.fullmatch(r"checkpoint_\d+\.pth\.tar", p.name))
    last = folder / LAST
    return sorted(numbered, key=lambda p: (len(p.name), p.name)) + ([last] if last.is_file() else [])


def newest_checkpoint(folder: Path) -> tuple[Path, dict] | None:
    """Return the most advanced checkpoint by its stored epoch and step, and its content.

    Corrupted checkpoints are reported and skipped; None if no checkpoint is readable.
    """
    newest = None
    for path in reversed(checkpoints_in(folder)):
        try:
            content = load_checkpoint(path)
        except UserError as error:
            print(f"{str(error).removesuffix('; use another one')}: falling back to the previous checkpoint")
            continue
        if newest is None or position(content) > position(newest[1]):
            newest = path, content
        if path.name != LAST:  # numbered checkpoints are in order
            break
    return newest


def position(checkpoint: dict) -> tuple[int, ...]:
    """Return the next epoch and step stored in a checkpoint; official checkpoints have no step."""
    values = (checkpoint.get(name) for name in ("epoch", "step"))
    return tuple(value if isinstance(value, int) else 0 for value in values)
