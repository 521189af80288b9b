"""How a program of this project ends when something is wrong: one sentence, never a traceback."""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import Callable

# What torch, which this module must not import, says when an allocation fails.
DEVICE_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "ALLOC_FAILED")
HOST_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """What is wrong, where, and what to do, as a sentence for the person at the keyboard."""

    def __init__(self, sentence: str) -> None:
        super().__init__(" ".join(sentence.splitlines()))  # whatever a library's message brought in


def first_line(error: BaseException) -> str:
    """What an error of a library says, short enough for a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def out_of_memory(error: BaseException) -> str | None:
    """``"the GPU"`` or ``"this machine"`` where ``error`` says that its memory ran out, else None."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or any(words in text for words in DEVICE_MEMORY):
        return "the GPU"
    if isinstance(error, MemoryError) or any(words in text for words in HOST_MEMORY):
        return "this machine"
    return None


def message_for(error: BaseException, saves_memory: str | None) -> str | None:
    """One sentence for what a machine runs out of; None for an error that is the program's own."""
    where = out_of_memory(error)
    if where is not None:
        cure = f"{saves_memory} can lower what is needed (--help)" if saves_memory else "free some of it"
        return f"{where} ran out of memory ({first_line(error)}): {cure}"
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return f"the disk is full ({first_line(error)}): make room; every file written before is whole"
    return None


def report_thread_error(args: threading.ExceptHookArgs) -> None:
    """TensorBoard writes from a thread of its own, which may find the disk full first."""
    sentence = message_for(args.exc_value, None)
    if sentence is None:
        threading.__excepthook__(args)
    else:
        print(f"note: {sentence}", file=sys.stderr)


def run_script(main: Callable[[], int | None], saves_memory: str | None = None) -> None:
    """Run a script's ``main`` and exit: with its code, or 2 and a sentence on stderr.

    Args:
        saves_memory: the script's flags that help where memory runs out, as text.
    """
    before, threading.excepthook = threading.excepthook, report_thread_error
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # who read the output has left, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except (MemoryError, OSError, RuntimeError) as error:
        sentence = message_for(error, saves_memory)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        code = 2
    finally:
        threading.excepthook = before
    sys.exit(code or 0)
