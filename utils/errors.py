"""Errors for users: every script ends with a one-line message and an exit code, not a traceback."""

from __future__ import annotations

import errno
import os
import sys
import threading
import tokenize
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .standard_streams import guarded_streams, stdout_error

# Messages of failed allocations in torch, which this module must not import.
DEVICE_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "ALLOC_FAILED")
HOST_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
# What numpy raises for damaged .npy and .npz files; a damaged header is tokenized as Python.
ARRAY_ERRORS = (OSError, EOFError, KeyError, ValueError, tokenize.TokenError, zipfile.BadZipFile)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

EXIT_FAILURE, EXIT_ERROR, EXIT_INTERRUPTED = 1, 2, 130

_skips_finalization = threading.Event()


class UserError(Exception):
    """A mistake or a problem that the user can fix: what is wrong, where, and what to do, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # messages of libraries may have several lines


class BadFile(UserError):
    """An input file, or a line of it, that cannot be used; a data preparation leaves it out and lists it."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.args = (reason, line)  # both, so that the exception can be pickled
        self.reason, self.line = reason, line


@contextmanager
def parse_errors(problem: str, error: Callable[[str], UserError] = UserError) -> Iterator[None]:
    """Turn whatever fails while a file is parsed into one line: ``problem`` and the reason.

    This is the border of every reader: code inside of it needs no checks of its own. Errors that are
    meant for the user, exhausted memory and a full disk pass unchanged.

    Args:
        problem: what could not be read, for example ``runs/a.json cannot be read``.
        error: the exception to raise, ``UserError`` or ``BadFile``.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as cause:
        if out_of_memory(cause) or (isinstance(cause, OSError) and cause.errno in FULL_DISK):
            raise
        raise error(f"{problem} ({first_line(cause)})") from cause


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error message, at most 160 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def out_of_memory(error: BaseException) -> str | None:
    """Return which memory ``error`` reports as exhausted, ``"the GPU"`` or ``"this machine"``, or None."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or any(words in text for words in DEVICE_MEMORY):
        return "the GPU"
    if isinstance(error, MemoryError) or any(words in text for words in HOST_MEMORY):
        return "this machine"
    return None


def message_for(error: BaseException, memory_flags: str | None) -> str | None:
    """Return one line about a resource or a path, or None if ``error`` is a bug of the program."""
    device = out_of_memory(error)
    if device is not None:
        advice = f"use {memory_flags} to reduce memory (see --help)" if memory_flags else "free some memory"
        return f"{device} is out of memory ({first_line(error)}): {advice}"
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return f"the disk is full ({first_line(error)}): free some space; all files written before are intact"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot access {os.fsdecode(error.filename)} ({error.strerror}): check the path"
    return None


def check_stdout() -> None:
    """Raise ``UserError`` if standard output, the only result of a script, could not be written.

    A reader that has ended (``| head``) is not an error.
    """
    sys.stdout.flush()
    error = stdout_error()
    if error is not None and not isinstance(error, BrokenPipeError):
        raise UserError(f"the output cannot be written ({error})")


def skip_finalization() -> None:
    """Make ``run_script`` end this process without finalizing the interpreter.

    The threads of a process group (gloo) take the GIL whenever they release a tensor, and they are not
    joined as long as something refers to the group, such as DistributedDataParallel. If one of them
    takes the GIL while the interpreter is finalized, Python ends the thread by unwinding a destructor,
    and the C++ runtime aborts the process.
    """
    _skips_finalization.set()


def report_thread_error(args: threading.ExceptHookArgs) -> None:
    """Report a full disk in one line if TensorBoard's writer thread is the first to hit it."""
    message = message_for(args.exc_value, None) if args.exc_value else None
    if message is None:
        threading.__excepthook__(args)
    else:
        print(f"note: {message}", file=sys.stderr)


def run_script(main: Callable[[], int | None], memory_flags: str | None = None) -> None:
    """Run a script's ``main`` and exit with its code; with 2 and one line on stderr for user errors.

    Args:
        main: returns the exit code; None means 0.
        memory_flags: the script's flags that reduce memory, named in out-of-memory messages.
    """
    with guarded_streams():
        try:
            code = run_guarded(main, memory_flags)
        except Exception:
            if not _skips_finalization.is_set():
                raise
            traceback.print_exc()
            code = EXIT_FAILURE
    if _skips_finalization.is_set():
        os._exit(code)
    sys.exit(code)


def run_guarded(main: Callable[[], int | None], memory_flags: str | None) -> int:
    """Run ``main`` and return its exit code; errors that a user can fix are printed in one line."""
    previous, threading.excepthook = threading.excepthook, report_thread_error
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (MemoryError, OSError, RuntimeError) as error:
        message = message_for(error, memory_flags)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return EXIT_ERROR
    finally:
        threading.excepthook = previous
