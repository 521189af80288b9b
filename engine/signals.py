"""Stopping a run by a signal: it finishes the current step, saves, and exits with a code of its own."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from utils.standard_streams import stdout_is_broken

EXIT_RESUMABLE = 75  # exit code of a run that was stopped by a signal and can be resumed


class StopRequest:
    """Context manager that records SIGINT, SIGTERM, SIGHUP and SIGUSR1; a second SIGINT aborts."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

    def __init__(self) -> None:
        self._requested = False
        self._previous: dict = {}

    @property
    def requested(self) -> bool:
        """Whether to stop: a signal arrived, or stdout is a closed pipe (``| head``)."""
        return self._requested or stdout_is_broken()

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
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # started by nohup: the run must outlive its terminal
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
