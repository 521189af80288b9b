"""Errors for users: every script ends with a one-line message and an exit code, not a traceback."""

from __future__ import annotations

import errno
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .standard_streams import guarded_streams, stdout_error

# In messages of failed allocations; torch raises RuntimeError for most of them.
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "not enough memory", "can't allocate", "Cannot allocate")
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # EFBIG: a limit on the file size

EXIT_FAILURE, EXIT_ERROR, EXIT_INTERRUPTED = 1, 2, 130


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
    """Turn whatever fails while a file is parsed into one ``error``: ``problem`` and the reason.

    This is the border of every reader: code in the ``with`` block needs no checks of its own. Errors that
    are meant for the user, exhausted memory and a full disk pass unchanged.
    """
    try:
        yield
    except Exception as cause:
        full_disk = isinstance(cause, OSError) and cause.errno in FULL_DISK
        if isinstance(cause, UserError) or out_of_memory(cause) or full_disk:
            raise
        raise error(f"{problem} ({first_line(cause)})") from cause


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error message, at most 160 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` reports that the memory of a GPU or of this machine is exhausted."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def message_for(error: BaseException, memory_flags: str | None = None) -> str | None:
    """Return one line about something that the user can fix, or None if ``error`` is a bug of the program."""
    if isinstance(error, UserError):
        return str(error)
    if out_of_memory(error):
        advice = f"use {memory_flags} to reduce memory (see --help)" if memory_flags else "free some memory"
        return f"out of memory ({first_line(error)}): {advice}"
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return f"the disk is full ({first_line(error)}): free some space; all files written before are intact"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot access {os.fsdecode(error.filename)} ({error.strerror}): check the path"
    return None


def report_thread_error(args: threading.ExceptHookArgs) -> None:
    """Report a full disk in one line if the thread of TensorBoard is the first to meet it."""
    if args.exc_value and (message := message_for(args.exc_value)):
        print(f"note: {message}", file=sys.stderr)
    else:
        threading.__excepthook__(args)


def run_script(main: Callable[[], int | None], memory_flags: str | None = None) -> None:
    """Run a script's ``main`` and exit with its code; with 2 and one line on stderr for user errors.

    ``memory_flags`` are those that reduce memory, named in out-of-memory messages. A process of ``torchrun``
    ends without finalizing the interpreter. The threads of its process group (gloo) take the GIL whenever
    they release a tensor, which aborts a process that is being finalized.
    """
    in_group = "TORCHELASTIC_RUN_ID" in os.environ
    threading.excepthook = report_thread_error
    with guarded_streams():
        try:
            code = main() or 0
            if code == 0 and (error := stdout_error()) and not isinstance(error, BrokenPipeError):
                raise UserError(f"the output cannot be written ({error})")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            code = EXIT_INTERRUPTED
        except Exception as error:
            message = message_for(error, memory_flags)
            if message is None and not in_group:
                raise
            code = EXIT_ERROR if message else EXIT_FAILURE
            print(f"error: {message}" if message else traceback.format_exc(), file=sys.stderr)
    if in_group:
        os._exit(code)
    sys.exit(code)
