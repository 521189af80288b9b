"""One run at a time in a folder: a lock that the system drops however the run ends.

Two runs that write checkpoints of the same names would mix. The lock is on a small file in the
folder that says who holds it; a run that is killed leaves the file, but not the lock.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Iterator

from options.errors import UserError

from .checkpoint import make_folder, remove_unfinished

LOCK_FILE = ".lock"


@contextmanager
def sole_use(folder: Path, flag: str) -> Iterator[None]:
    """Keep other runs out of ``folder``, which is made where missing, during a ``with`` block.

    Raises ``UserError`` where another run is in there; ``flag`` is what names a folder. Where the
    file system has no locks, as some network file systems, a line says so and the block runs.
    """
    make_folder(folder)
    path = folder / LOCK_FILE
    file = claim(path, flag)
    try:
        remove_unfinished(folder)
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock goes: afterwards it may be another run's
        file.close()


def claim(path: Path, flag: str) -> IO[str]:
    """Open and lock the file ``path``, and write into it who holds it."""
    while True:
        try:
            file = open(path, "a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"{path.parent} cannot be written to ({error.strerror}); name another {flag}")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                holder = file.read(200).strip() or "it does not say who it is"
            raise UserError(
                f"another run is writing to {path.parent} ({holder}); wait for its end, or name "
                f"another {flag}"
            )
        except OSError as error:
            print(
                f"note: {path.parent} cannot be locked ({error.strerror}); start no second run there "
                "while this one lasts"
            )
            return file
        if is_at(file, path):
            break
        file.close()  # the run before took the file away between opening and locking
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M')}\n")
    file.flush()
    return file


def is_at(file: IO[str], path: Path) -> bool:
    """Whether ``path`` still is the open ``file``."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
