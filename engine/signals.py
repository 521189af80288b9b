"""A run that is asked to stop finishes its step, saves, and ends with an exit code of its own."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

EXIT_RESUMABLE = 75  # exit code of a run that was asked to stop and can be resumed


class StopRequest:
    """Remembers SIGINT, SIGTERM and SIGUSR1 while it is entered; a second SIGINT ends at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.requested = False
        self._before: dict = {}

    def _on_signal(self, number: int, frame: object) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        name = signal.Signals(number).name
        # Not print: the signal may have come while stderr was being printed to, as by a progress bar.
        with suppress(OSError):  # the terminal may be gone
            os.write(2, f"\n{name}: finishing the step, then saving (Ctrl-C again leaves at once)\n".encode())

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
