"""Standard streams that cannot end a run: closed pipes, closed descriptors, unencodable names."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class GuardedStream:
    """A text stream that discards its output once writing fails, for example after ``| head``.

    After the first error, ``error`` contains it and the descriptor refers to the null device, so
    neither later writes nor the interpreter's final flush can fail.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | ValueError | None = None

    def _discard(self, error: OSError | ValueError) -> None:
        first, self.error = self.error is None, self.error or error
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        if first and self is sys.stdout and not stdout_is_broken():
            print(f"note: standard output cannot be written ({error}) and is discarded", file=sys.stderr)

    def write(self, text: str) -> int:
        """Write ``text``, or discard it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: the stream object was closed
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or discard what is buffered."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._discard(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_closed_descriptors() -> None:
    """Open the null device as every standard descriptor that is closed (``2>&-``).

    Otherwise the next file that is opened, such as a checkpoint, would be standard error for libraries
    and child processes.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(descriptor, True)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard ``sys.stdout`` and ``sys.stderr`` during a ``with`` block.

    A stream that was closed before the program started (``2>&-``) is replaced by the null device.
    Characters that the encoding of the terminal lacks are printed as escapes.
    """
    previous = sys.stdout, sys.stderr
    open_closed_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w")  # stays open until the process ends
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, GuardedStream(stream))
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = previous


def stdout_error() -> OSError | ValueError | None:
    """Return the error that standard output was discarded for, None if everything was written."""
    return getattr(sys.stdout, "error", None)


def stdout_is_broken() -> bool:
    """Return whether stdout is a closed pipe, as after ``| head`` has ended."""
    return isinstance(stdout_error(), BrokenPipeError)


def encodable(text: str) -> str:
    """Escape the bytes of file names in ``text`` that are not UTF-8, for files and libraries."""
    return text.encode(errors="backslashreplace").decode()
