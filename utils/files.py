"""Output files and folders: checks before the work, atomic writes, and the lock on a run's folder.

Files are written atomically: temporary name in the same folder, fsync, rename. Symbolic links are
followed. Devices and FIFOs are written to directly and never replaced. Nothing in this module imports
torch.
"""

from __future__ import annotations

import csv
import errno
import fnmatch
import io
import json
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NoReturn

from filelock import FileLock, Timeout

from .errors import UserError, first_line, out_of_memory

LOCK_FILE = ".lock"
LOCK_HOLDER_FILE = ".lock-holder"  # filelock empties the lock file itself
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of file systems without locks


def file_type(path: Path) -> str | None:
    """Return what ``path`` refers to, links followed: ``file``, ``folder``, ``stream``, ``other``, or None.

    A stream (character device or FIFO) can be written to but not replaced.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "stream" if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) else "other"


def check_output_folder(folder: Path, flag: str) -> None:
    """Raise ``UserError`` unless files can be created in ``folder``, which need not exist yet.

    A nameless temporary file is written, because permissions alone do not show a full disk.
    """
    try:
        existing = Path(os.path.realpath(folder))
        while (kind := file_type(existing)) is None:
            existing = existing.parent
    except OSError as error:
        raise UserError(f"{flag} {folder}: {error.strerror}; choose another folder") from error
    if kind != "folder":
        raise UserError(f"{flag} {folder}: {existing} is not a folder; choose another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {folder}: no permission to write to {existing}; choose another folder")
    try:
        with TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        raise UserError(
            f"{flag} {folder}: no file can be written to {existing} ({error.strerror}); choose another folder"
        ) from error


def check_output_file(path: Path, flag: str) -> None:
    """Raise ``UserError`` unless ``path`` can be written; call it before the work starts."""
    try:
        kind = file_type(path)
    except OSError as error:
        raise UserError(f"{flag} {path}: {error.strerror}; choose another file") from error
    if kind == "folder":
        raise UserError(f"{flag} {path} is a folder; give a file")
    if kind == "other":
        raise UserError(f"{flag} {path} is neither a file, a FIFO nor a character device; give a file")
    if kind == "stream":
        if not os.access(path, os.W_OK):
            raise UserError(f"{flag} {path}: no permission to write; choose another file")
    else:
        check_output_folder(Path(os.path.realpath(path)).parent, flag)


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that ``path`` has either its previous content or all of the new one.

    The target of a symbolic link is replaced, not the link. A device or FIFO receives the bytes.

    Raises:
        UserError: the file cannot be written, for example because the disk is full.
    """
    try:
        if file_type(path) in ("stream", "other"):
            write_stream(path, write)
            return
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another file") from error
    target = Path(os.path.realpath(path))
    ensure_folder(target.parent)
    # 50 characters are at most 200 bytes; names of files have at most 255.
    temporary = target.with_name(f".{target.name[:50]}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        if out_of_memory(error):
            raise
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        kept = "the previous file is unchanged; " if target.exists() else ""
        raise UserError(
            f"cannot write {path} ({first_line(cause)}): {kept}free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    flush_folder(target.parent)


def write_stream(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write to a device or FIFO; the content is buffered, because writers may seek.

    Raises:
        UserError: the device is full, or the reader of the FIFO has ended.
    """
    content = io.BytesIO()
    write(content)
    try:
        with open(path, "wb") as file:
            file.write(content.getbuffer())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another file") from error


def flush_folder(folder: Path) -> None:
    """Flush a rename to disk, if the file system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def ensure_folder(folder: Path) -> None:
    """Create ``folder`` and its parents if they do not exist; raises ``UserError`` on failure.

    The target of a symbolic link is created.
    """
    try:
        os.makedirs(os.path.realpath(folder), exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create the folder {folder} ({error.strerror}); choose another one"
        ) from error


def find_files(folder: Path, name: str) -> list[Path]:
    """Return the files below ``folder`` whose name matches a pattern, sorted.

    Raises:
        UserError: a folder cannot be read, whose files would be missing.
    """

    def report(error: OSError) -> NoReturn:
        where = os.fsdecode(error.filename)
        raise UserError(f"the folder {where} cannot be read ({error.strerror})") from error

    found = os.walk(folder, onerror=report)
    return sorted(Path(parent, file) for parent, _, files in found for file in fnmatch.filter(files, name))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, atomically."""
    try:
        data = json.dumps(content, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a path that is not UTF-8: store its bytes as escapes
        data = json.dumps(content, indent=2).encode()
    atomic_write(path, lambda file: file.write(data + b"\n"))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write ``header`` and ``rows`` as CSV, atomically."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    atomic_write(path, lambda file: file.write(text.getvalue().encode(errors="surrogateescape")))


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
    except (NotImplementedError, OSError) as error:  # filelock raises either if there are no locks
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise UserError(f"cannot write to {folder} ({error.strerror}); choose another {flag}") from error
        print(
            f"note: {folder} cannot be locked ({first_line(error)}); do not start a second run there at the "
            "same time"
        )
    try:
        remove_temporary_files(folder)
        yield
    finally:
        if lock.is_locked:
            holder.unlink(missing_ok=True)
        lock.release()  # the empty lock file stays: removing it would race with a run that waits for it
