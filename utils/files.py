"""Output files and folders: checks before the work, atomic writes, and the lock on a run's folder.

Files are written atomically: temporary name, fsync, rename. Symbolic links are followed. A path that exists
and is not a regular file, such as a device or a FIFO, is written directly and never replaced.
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
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from filelock import FileLock, Timeout

from .errors import UserError, first_line

LOCK_FILE = ".lock"
LOCK_HOLDER_FILE = ".lock-holder"  # filelock empties the lock file itself


def check_output_folder(folder: Path, flag: str) -> None:
    """Raise ``UserError`` unless files can be created in ``folder``, which need not exist yet.

    A nameless temporary file is written, because permissions alone do not show a full disk.
    """
    existing = Path(os.path.realpath(folder))
    try:
        while not existing.exists():
            existing = existing.parent
        with TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        problem = f"{existing} is not a folder that can be written to ({error.strerror})"
        raise UserError(f"{flag} {folder}: {problem}; choose another folder") from error


def check_output_file(path: Path, flag: str) -> None:
    """Raise ``UserError`` unless ``path`` can be written; call it before the work starts."""
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder; give a file")
    if path.is_file() or not path.exists():
        check_output_folder(Path(os.path.realpath(path)).parent, flag)


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that ``path`` has either its previous content or all of the new one.

    The target of a symbolic link is replaced, not the link. A device or FIFO receives the bytes. Raises
    ``UserError`` if the file cannot be written, for example because the disk is full.
    """
    target = Path(os.path.realpath(path))
    # 50 characters are at most 200 bytes; names of files have at most 255.
    temporary = target.with_name(f".{target.name[:50]}.{os.getpid()}.tmp")
    try:
        if target.exists() and not target.is_file():
            content = io.BytesIO()  # writers may seek
            write(content)
            target.write_bytes(content.getbuffer())
            return
        ensure_folder(target.parent)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        kept = "the previous file is unchanged; " if target.is_file() else ""
        problem = f"cannot write {path} ({first_line(cause)})"
        raise UserError(f"{problem}: {kept}free some space or choose another folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def ensure_folder(folder: Path) -> None:
    """Create ``folder`` and its parents if they do not exist; the target of a symbolic link is created."""
    os.makedirs(os.path.realpath(folder), exist_ok=True)


def safe_file_name(text: str) -> str:
    """Return ``text``, such as the name of a clip, as the name of a file.

    A path, or a name that is too long or unusual, gets a checksum, so that different names stay different.
    """
    name = re.sub(r"[^\w.,()+@= -]", "_", text)[:100].lstrip(". ")  # at most 200 bytes in most scripts
    return name if name == text else f"{name}-{zlib.crc32(text.encode(errors='surrogatepass')):08x}"


def find_files(folder: Path, name: str) -> list[Path]:
    """Return the files below ``folder`` whose name matches a pattern, sorted.

    Raises ``OSError`` for a folder that cannot be read, whose files would be missing.
    """

    def stop(error: OSError) -> None:
        raise error

    found = os.walk(folder, onerror=stop)
    return sorted(Path(parent, file) for parent, _, files in found for file in fnmatch.filter(files, name))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, atomically; bytes of a path that are not UTF-8 become escapes."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write ``header`` and ``rows`` as CSV, atomically."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    atomic_write(path, lambda file: file.write(text.getvalue().encode(errors="surrogateescape")))


@contextmanager
def exclusive_folder(folder: Path, flag: str) -> Iterator[None]:
    """Lock ``folder`` (created if missing) against other runs for the duration of a ``with`` block.

    The operating system releases the lock however the run ends; the temporary files of a run that was
    killed are removed. If the file system has no locks, as some network file systems, a note is printed
    and the block runs unlocked. Raises ``UserError``, which names ``flag``, if another run holds the lock,
    and ``OSError`` if the folder is not writable.
    """
    ensure_folder(folder)
    lock, holder = FileLock(folder / LOCK_FILE), folder / LOCK_HOLDER_FILE
    try:
        lock.acquire(timeout=0)
        since = time.strftime("%Y-%m-%d %H:%M")
        holder.write_text(f"PID {os.getpid()} on {socket.gethostname()}, since {since}\n")
    except Timeout as error:
        who = holder.read_text(errors="replace")[:200].strip() if holder.is_file() else "unknown process"
        advice = f"wait until it ends or choose another {flag}"
        raise UserError(f"another run is writing to {folder} ({who}); {advice}") from error
    except (NotImplementedError, OSError) as error:  # filelock raises either if there are no locks
        if getattr(error, "errno", errno.ENOSYS) not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        advice = "do not start a second run there at the same time"
        print(f"note: {folder} cannot be locked ({first_line(error)}); {advice}")
    try:
        for path in folder.glob(".*.[0-9]*.tmp"):  # named by atomic_write
            path.unlink(missing_ok=True)
        yield
    finally:
        if lock.is_locked:
            holder.unlink(missing_ok=True)
        lock.release()  # the empty lock file stays: removing it would race with a run that waits for it
