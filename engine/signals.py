"""Stopping a run by a signal: it finishes the current step, saves, and exits with ``EXIT_RESUMABLE``."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from utils.standard_streams import stdout_error

EXIT_RESUMABLE = 75  # exit code of a run that was stopped by a signal and can be resumed


class StopRequest:
    """Context manager that records SIGINT, SIGTERM, SIGHUP and SIGUSR1; a second SIGINT aborts.

    An ignored SIGHUP stays ignored: a run under ``nohup`` must outlive its terminal. An ignored SIGINT, as in
    a background job of a shell script, is recorded.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Windows has the first two
    SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

    def __init__(self) -> None:
        self._requested = False
        self._previous: dict = {}

    @property
    def requested(self) -> bool:
        """Whether to stop: a signal arrived, or stdout is a closed pipe (``| head``)."""
        return self._requested or isinstance(stdout_error(), BrokenPipeError)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested = True
        name = signal.Signals(number).name
        # Not print(): the signal may interrupt a print to stderr, for example by a progress bar.
        text = f"\n{name}: finishing the step, then saving (press Ctrl-C again to abort)\n"
        with suppress(OSError, ValueError):  # the terminal may be gone
            os.write(sys.stderr.fileno(), text.encode())

    def __enter__(self) -> StopRequest:
        for number in self.SIGNALS:
            name = signal.Signals(number).name
            if name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
