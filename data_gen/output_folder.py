"""Output folders that are written atomically: temporary folder next to the target, then rename.

Links are followed. The temporary folder is locked against other runs with the same target, and the next run
removes what a killed one has left in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError
from utils.files import check_output_folder, exclusive_folder

FLAG = "--out_folder"


def check_folder(target: Path) -> None:
    """Raise ``UserError`` unless ``atomic_folder`` can write ``target``; for the beginning of a script."""
    check_output_folder(target, FLAG)
    real = Path(os.path.realpath(target))
    if real.exists() and (os.path.ismount(real) or not os.access(real.parent, os.W_OK)):
        what = "is a mount point" if os.path.ismount(real) else f"is in {real.parent}, which is not writable"
        advice = f"choose a folder inside it: {target / 'store'}"
        raise UserError(f"{FLAG} {target} {what} and cannot be replaced; {advice}")


@contextmanager
def atomic_folder(target: Path, check_target: Callable[[], None]) -> Iterator[Path]:
    """Yield an empty folder, and rename it to ``target`` at the end of the ``with`` block.

    An exception in the block leaves nothing behind. An existing folder, or the one that a link refers to, is
    replaced. ``check_target`` raises ``UserError`` if it must not be; it is called at the beginning and at
    the end, because the work in between can take hours. A folder that cannot be written, or that another run
    is writing, is also a ``UserError``.
    """
    check_target()
    real = Path(os.path.realpath(target))
    temporary = real.with_name(f".{real.name[:50]}.partial")  # 50 characters are at most 200 bytes
    new, old = temporary / "new", temporary / "old"

    def restore() -> None:
        if old.exists() and not real.exists():  # a run was stopped between the two renames below
            os.rename(old, real)

    with exclusive_folder(temporary, FLAG):
        try:
            with write_errors(target):
                restore()
                for leftover in (new, old):
                    shutil.rmtree(leftover, ignore_errors=True)
                new.mkdir()
            check_target()
            yield new
            check_target()
            with write_errors(target):
                if real.exists():
                    os.rename(real, old)
                os.rename(new, real)
        finally:
            restore()
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Convert operating system errors in the block to a ``UserError`` about ``target``."""
    try:
        yield
    except OSError as error:
        advice = f"nothing was left there; free some space or choose another {FLAG}"
        raise UserError(f"{target} cannot be written ({error.strerror or error}); {advice}") from error
