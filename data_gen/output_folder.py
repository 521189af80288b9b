"""Output folders that are written atomically: temporary name, fsync, rename.

Everything is written to a hidden folder next to the target, which is renamed after all of it is on disk.
Links are followed. A mount point cannot be renamed, and next to it is another disk: its hidden folder is
inside of it, and its content is exchanged file by file at the end. The same is done if the parent of a folder
is not writable.

The hidden folder of a run that was killed is cleared by the next run with the same target. A lock on it
separates concurrent runs; the operating system releases the lock however a process ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from utils.errors import UserError
from utils.files import check_output_folder, ensure_folder

PARTIAL, REPLACED = "partial", "replaced"  # the new content, and the old one while they are exchanged
FLAG = "--out_folder"
_ALL_MOVED = ".all"  # in the folder of the old content, once all of it is there


@dataclass(frozen=True)
class _Places:
    """Where a target and its hidden folders are. ``target`` is free of links."""

    target: Path
    is_inside: bool  # whether the hidden folders are inside of the target

    def hidden(self, kind: str) -> Path:
        if self.is_inside:
            return self.target / f".{kind}"
        name = os.fsdecode(os.fsencode(self.target.name)[:200])  # a file system limits the length
        return self.target.with_name(f".{name}.{kind}")


def check_folder(target: Path) -> None:
    """Raise ``UserError`` unless ``atomic_folder`` can write ``target``; for the beginning of a script."""
    _check_hidden(_places(target))


@contextmanager
def atomic_folder(target: Path, patterns: Sequence[str], check_target: Callable[[], None]) -> Iterator[Path]:
    """Yield an empty folder, and rename it to ``target`` at the end of the ``with`` block.

    An exception in the block leaves nothing behind. A folder that exists under the name ``target`` is
    replaced; if ``target`` is a link to a folder, that folder.

    Args:
        target: a path.
        patterns: names of the files that the block writes, for example ``*.txt``. Leftovers of a killed run
            are removed only if all of them match.
        check_target: raises ``UserError`` if ``target`` must not be replaced. Called at the beginning and at
            the end, because the work in between can take hours.

    Raises:
        UserError: the folder cannot be written, another run is writing it, or unknown files are in the way.
    """
    check_target()
    places = _places(target)
    with write_errors(target):
        partial, lock = _claim(places, patterns)
    try:
        with write_errors(target):
            _restore(places)
        check_target()
        yield partial
        check_target()
        with write_errors(target):
            os.fsync(lock)  # the lock is the open folder; this flushes its list of files
            _move_into_place(places)
    except BaseException:
        with suppress(OSError):
            _restore(places)
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
            f"space or choose another {FLAG}"
        ) from error


def content_of(folder: Path) -> list[Path]:
    """Return what is in a folder, without the hidden folders of ``atomic_folder``."""
    hidden = (f".{PARTIAL}", f".{REPLACED}")
    return sorted(path for path in folder.iterdir() if path.name not in hidden)


def is_empty_folder(path: Path) -> bool:
    """Return whether ``path`` is a folder without content.

    One whose content a killed run was exchanging counts as empty; ``atomic_folder`` restores its content.
    """
    return path.is_dir() and ((path / f".{REPLACED}").is_dir() or not content_of(path))


def _places(target: Path) -> _Places:
    """Follow links, and check that the target and its hidden folders can be written."""
    check_output_folder(target, FLAG)
    real = Path(os.path.realpath(target))
    if not real.exists():
        return _Places(real, is_inside=False)
    parent = real.parent.stat()
    is_foreign = parent.st_mode & stat.S_ISVTX and os.geteuid() not in (0, parent.st_uid, real.stat().st_uid)
    cannot_rename = os.path.ismount(real) or _is_bind_mount(real) or not os.access(real.parent, os.W_OK)
    return _Places(real, bool(cannot_rename or is_foreign))


def _check_hidden(places: _Places) -> None:
    for kind in (PARTIAL, REPLACED):
        hidden = places.hidden(kind)
        if hidden.is_symlink() or (hidden.exists() and not hidden.is_dir()):
            raise UserError(f"{hidden} is in the way and was not created by this program; move it away")


def _is_bind_mount(folder: Path) -> bool:
    """Return whether a folder of the same file system is mounted there, unseen by ``os.path.ismount``."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    places = (line.split()[4].decode("unicode_escape").encode("latin-1") for line in lines if line)
    return os.fsencode(folder) in places


def _claim(places: _Places, patterns: Sequence[str]) -> tuple[Path, int]:
    """Create and lock the hidden folder for this target; return it and its open descriptor, the lock."""
    partial = places.hidden(PARTIAL)
    _check_hidden(places)
    ensure_folder(partial.parent)
    while True:
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise UserError(
                f"another run is writing {places.target}; wait for it to finish or choose another {FLAG}"
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
        if not path.is_dir() and not any(fnmatch(path.name, pattern) for pattern in (*patterns, _ALL_MOVED)):
            raise UserError(
                f"{partial} contains {path.name}, which was not created by this program; move it away"
            )
    for path in partial.iterdir():
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _restore(places: _Places) -> None:
    """Put back what a run moved aside that was killed while it exchanged the old and the new content."""
    target, beside, inside = places.target, places.hidden(REPLACED), places.target / f".{REPLACED}"
    if inside.is_dir():
        if (inside / _ALL_MOVED).exists():
            for path in content_of(target):  # of the new content
                _remove(path)
            (inside / _ALL_MOVED).unlink()
        for path in sorted(inside.iterdir()):
            os.rename(path, target / path.name)
        inside.rmdir()
    elif beside.is_dir() and not target.exists():
        os.rename(beside, target)


def _move_into_place(places: _Places) -> None:
    """Replace the target by the hidden folder; the old content is moved aside and removed at the end."""
    target, partial, replaced = places.target, places.hidden(PARTIAL), places.hidden(REPLACED)
    if places.is_inside:
        _exchange_content(target, partial)
        return
    if replaced.exists():  # left by a run that was killed while it removed it
        _remove(replaced)
    try:
        if target.exists() and any(target.iterdir()):
            os.rename(target, replaced)
    except OSError:  # some file systems in containers cannot rename a folder
        _exchange_content(target, partial)
        return
    try:
        os.rename(partial, target)
    except OSError:
        if replaced.exists():
            os.rename(replaced, target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _exchange_content(target: Path, partial: Path) -> None:
    """Replace the content of ``target`` by that of ``partial``, on the same file system."""
    replaced = target / f".{REPLACED}"
    replaced.mkdir()
    for path in reversed(content_of(target)):  # store.json first, so that a part is not taken for a store
        os.rename(path, replaced / path.name)
    (replaced / _ALL_MOVED).touch()
    for path in sorted(partial.iterdir()):
        os.rename(path, target / path.name)
    os.rename(replaced, partial / "old")  # from here on the new content counts
    shutil.rmtree(partial, ignore_errors=True)
