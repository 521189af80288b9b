"""Standard streams that cannot end a run: closed pipes, full disks, unencodable names."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class GuardedStream:
    """A text stream that discards its output once writing fails, for example after ``| head``.

    ``error`` contains the first error. From then on the descriptor refers to the null device, so neither
    later writes nor the interpreter's final flush can fail.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | ValueError | None = None

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: the stream object was closed
            self.error = self.error or error
            with suppress(OSError, ValueError), open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), self._stream.fileno())

    def write(self, text: str) -> int:
        """Write ``text``, or discard it."""
        with self._guard():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or discard what is buffered."""
        with self._guard():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard ``sys.stdout`` and ``sys.stderr`` during a ``with`` block.

    Characters that the encoding of the terminal lacks are printed as escapes.
    """
    previous = sys.stdout, sys.stderr
    # A stream that was closed before the program started (``2>&-``) is None.
    streams = [stream or open(os.devnull, "w") for stream in previous]
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = map(GuardedStream, streams)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = previous


def stdout_error() -> OSError | ValueError | None:
    """Return why stdout is discarded, if it is; ``BrokenPipeError`` if its reader (``| head``) has ended."""
    sys.stdout.flush()
    return getattr(sys.stdout, "error", None)


def encodable(text: str) -> str:
    """Escape the bytes of file names in ``text`` that are not UTF-8, for files and libraries."""
    return text.encode(errors="backslashreplace").decode()
