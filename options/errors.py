"""How a program of this project ends when something is wrong: one sentence, never a traceback."""

from __future__ import annotations

import sys
from typing import Callable


class UserError(Exception):
    """What is wrong, where, and what to do, as a sentence for the person at the keyboard."""


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and exit: 0, or 2 with the sentence of a ``UserError`` on stderr."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code or 0)
