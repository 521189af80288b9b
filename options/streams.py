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

    After the first error ``broken`` is true and the descriptor refers to the null device, so neither
    later writes nor the interpreter's final flush can fail.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.broken = False

    def _discard(self) -> None:
        self.broken = True
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def write(self, text: str) -> int:
        """Write ``text``, or discard it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # ValueError: the stream object was closed
            self._discard()
            return len(text)

    def flush(self) -> None:
        """Flush, or discard what is buffered."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._discard()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard ``sys.stdout`` and ``sys.stderr`` during a ``with`` block.

    A stream that was closed before the program started (``2>&-``) is replaced by the null device.
    Characters that the encoding of the terminal lacks are printed as escapes.
    """
    previous = sys.stdout, sys.stderr
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


def stdout_is_broken() -> bool:
    """Whether nobody reads the output any more, as after ``| head`` has ended."""
    return getattr(sys.stdout, "broken", False)
