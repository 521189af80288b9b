"""What is wrong with an input file, as data: the preparation goes on and reports it."""

from __future__ import annotations


class BadFile(Exception):
    """One input file cannot become a clip: the reason, and the line where it shows, if one does."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason, line)  # both as arguments: the exception must survive pickling
        self.reason = reason
        self.line = line
