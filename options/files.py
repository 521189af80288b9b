"""Output files and folders: atomic writes, JSON and CSV, and the lock on a run's folder.

A file appears under its name only when it is complete: it is written to a temporary name in the same
folder, flushed to disk and renamed. Nothing in this module imports torch.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from .errors import UserError, first_line, out_of_memory

LOCK_FILE = ".lock"
LOCK_HOLDER_FILE = ".lock-holder"  # filelock empties the lock file itself


def atomic_write(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file so that ``path`` has either its previous content or all of the new one.

    Raises ``UserError`` if the file cannot be written, for example on a full disk.
    """
    ensure_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        if out_of_memory(error):
            raise
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        kept = "the previous file is unchanged; " if path.exists() else ""
        raise UserError(
            f"cannot write {path} ({first_line(cause)}): {kept}free some space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a rename to disk, if the file system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def ensure_folder(folder: Path) -> None:
    """Create ``folder`` and its parents if they do not exist; raises ``UserError`` on failure."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create the folder {folder} ({error.strerror}); choose another one"
        ) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, lambda file: file.write(text.encode()))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write ``header`` and ``rows`` as CSV, atomically."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    atomic_write(path, lambda file: file.write(text.getvalue().encode()))


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of runs that were killed while writing; only call it under the lock."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)


@contextmanager
def exclusive_folder(folder: Path, flag: str) -> Iterator[None]:
    """Lock ``folder`` (created if missing) against other runs for the duration of a ``with`` block.

    The operating system releases the lock however the run ends. If the file system has no locks, as
    some network file systems, a note is printed and the block runs unlocked.

    Args:
        folder: the output folder of the run.
        flag: the flag that sets the folder, for error messages.

    Raises:
        UserError: another run holds the lock, or the folder is not writable.
    """
    ensure_folder(folder)
    lock = FileLock(folder / LOCK_FILE)
    holder = folder / LOCK_HOLDER_FILE
    try:
        lock.acquire(timeout=0)
        holder.write_text(
            f"PID {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M')}\n"
        )
    except Timeout as error:
        who = holder.read_text(errors="replace")[:200].strip() if holder.is_file() else "unknown process"
        raise UserError(
            f"another run is writing to {folder} ({who}); wait until it ends or choose another {flag}"
        ) from error
    except NotImplementedError:  # the file system has no locks
        print(f"note: {folder} cannot be locked; do not start a second run there at the same time")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); choose another {flag}") from error
    try:
        remove_temporary_files(folder)
        yield
    finally:
        if lock.is_locked:
            holder.unlink(missing_ok=True)
        lock.release()  # the empty lock file stays: removing it would race with a run that waits for it
