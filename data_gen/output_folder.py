"""Output folders that appear under their name only when they are complete.

Everything is written to a hidden folder next to the target, which is renamed after all of it is on disk. The
hidden folder of a run that was killed is cleared by the next run with the same target. A lock on it separates
concurrent runs; the operating system releases the lock however a process ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from options.errors import UserError
from options.files import ensure_folder, flush_folder


@contextmanager
def atomic_folder(target: Path, patterns: Sequence[str], check_target: Callable[[], None]) -> Iterator[Path]:
    """Yield an empty folder, and rename it to ``target`` at the end of the ``with`` block.

    An exception in the block leaves nothing behind. A folder that exists under the name ``target`` is
    replaced.

    Args:
        target: an absolute path.
        patterns: names of the files that the block writes, for example ``*.txt``. Leftovers of a killed run
            are removed only if all of them match.
        check_target: raises ``UserError`` if ``target`` must not be replaced. Called at the beginning and at
            the end, because the work in between can take hours.

    Raises:
        UserError: the folder cannot be written, another run is writing it, or unknown files are in the way.
    """
    check_target()
    with write_errors(target):
        partial, lock = _claim(target, patterns)
    try:
        yield partial
        check_target()
        with write_errors(target):
            os.fsync(lock)  # the lock is the open folder; this flushes its list of files
            _move_into_place(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


@contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Convert operating system errors in the block to a ``UserError`` about ``target``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}); nothing was left there; free some "
            "space or choose another --out_folder"
        ) from error


def is_empty_folder(path: Path) -> bool:
    """Whether ``path`` is a folder without content."""
    return path.is_dir() and not any(path.iterdir())


def _claim(target: Path, patterns: Sequence[str]) -> tuple[Path, int]:
    """Create and lock the hidden folder for this target; return it and its open descriptor, the lock."""
    partial = target.with_name(f".{target.name}.partial")
    ensure_folder(partial.parent)
    while True:
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise UserError(
                f"another run is writing {target}; wait for it to finish or choose another --out_folder"
            ) from error
        # Between opening and locking, the other run may have moved its folder into place.
        if partial.exists() and os.path.samestat(os.fstat(lock), os.stat(partial)):
            break
        os.close(lock)
    try:
        _clear(partial, patterns)
    except BaseException:
        os.close(lock)
        raise
    return partial, lock


def _clear(partial: Path, patterns: Sequence[str]) -> None:
    """Remove what a killed run left in its hidden folder."""
    for path in sorted(partial.rglob("*")):
        if not path.is_dir() and not any(fnmatch(path.name, pattern) for pattern in patterns):
            raise UserError(
                f"{partial} contains {path.name}, which was not created by this program; move it away"
            )
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _move_into_place(partial: Path, target: Path) -> None:
    """Rename ``partial`` to ``target``; an old target is renamed first and removed at the end."""
    replaced = target.with_name(f".{target.name}.replaced")
    if replaced.exists():  # left by a run that was killed between the two renames below
        shutil.rmtree(replaced)
    if target.exists() and not is_empty_folder(target):
        os.rename(target, replaced)
    try:
        os.rename(partial, target)
    except OSError:
        if replaced.exists():
            os.rename(replaced, target)
        raise
    flush_folder(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)
