"""The argument parser of all scripts, and the types of its flags."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

from utils.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line and accepts no abbreviated flags.

    Args:
        documentation: shown by ``--help``.
        presets: ``@FILE`` stands for the flags in a text file; ``#`` starts a comment.
    """

    def __init__(self, documentation: str, presets: bool = False) -> None:
        super().__init__(
            description=documentation,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            fromfile_prefix_chars="@" if presets else None,
        )

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """Return the flags in a line of a preset."""
        try:
            return shlex.split(arg_line.removeprefix("\ufeff"), comments=True)
        except ValueError as error:
            self.error(f"preset, line '{arg_line}': {error}".replace("\n", " "))

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse, with a one-line error for a preset that is not a text file."""
        try:
            return super().parse_known_args(*args, **kwargs)
        except UnicodeDecodeError as error:
            self.error(f"preset: not a text file ({error})")

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        print(f"error: {message} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)


class Flags(argparse.Namespace):
    """The completed and checked flags of a run, read-only.

    Args:
        args: the parsed flags.
        completed: values that replace those in ``args``.
    """

    def __init__(self, args: argparse.Namespace, **completed: Any) -> None:
        vars(self).update({**vars(args), **completed})

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"flags are completed in one place (options/defaults.py): {name} cannot be set")


def reject(*conflicts: tuple[object, str]) -> None:
    """Raise ``UserError`` with the message of the first conflict whose condition is true."""
    for condition, message in conflicts:
        if condition:
            raise UserError(message)


def number(kind: type, low: float, high: float = float("inf"), above: bool = False) -> Callable:
    """Return an argparse type: an int or float of at least ``low`` (or above it) and at most ``high``."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError as error:
            name = {"int": "an integer", "float": "a number"}[kind.__name__]
            raise argparse.ArgumentTypeError(f"'{text}' is not {name}") from error
        if not (low < value if above else low <= value) or not value <= high:
            bound = "above" if above else "at least"
            limit = f" and at most {high}" if high != float("inf") else ""
            raise argparse.ArgumentTypeError(f"{text} must be {bound} {low}{limit}")
        return value

    return parse


def expanded_path(text: str) -> str:
    """An argparse type: a path with ``~`` expanded; missing files are allowed, inaccessible ones are not."""
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        reason = "no home folder is known; write ./~ for a file with this name"
        raise argparse.ArgumentTypeError(f"{text} cannot be expanded: {reason}")
    try:
        os.stat(expanded)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        cause = error.strerror if isinstance(error, OSError) else error
        raise argparse.ArgumentTypeError(f"{text} cannot be accessed: {cause}") from error
    return expanded


def described(group: argparse._ActionsContainer, text: str) -> Callable[..., None]:
    """Return a function that adds a flag to ``group`` as ``add_argument`` does, with its help from ``text``.

    The help of a flag starts on a line with one of its names; the lines that continue it are indented.
    """
    parts = re.split(r"\n(?=--)", textwrap.dedent(text).strip())
    helps = {name: " ".join(words) for name, *words in map(str.split, parts)}

    def add(*names: str, **options: Any) -> None:
        group.add_argument(*names, **options, help=next(helps[name] for name in names if name in helps))

    return add


def add_overwrite_flag(group: argparse._ActionsContainer) -> None:
    """Add ``--overwrite`` for the folder of the results."""
    text = "replace results of other flags in the folder; those of the same flags are always replaced"
    group.add_argument("--overwrite", action="store_true", help=text)


POSITIVE_INT = number(int, 1)
COUNT = number(int, 0)
POSITIVE = number(float, 0.0, above=True)
NON_NEGATIVE = number(float, 0.0)
FRACTION = number(float, 0.0, 1.0)
POSITIVE_FRACTION = number(float, 0.0, 1.0, above=True)


def add_figure_flags(parser: Parser) -> None:
    """Add how the figures of a script are written; see ``visual.plots.Style``."""
    text = """
    --format file format (default: png); the PNG that the report page shows is always written
    --dpi resolution of PNG files (default: 200)
    --width width in columns of a paper: one (3.3 inches) or two (7 inches; default)
    """
    add = described(parser.add_argument_group("figures"), text)
    add("--format", choices=["png", "pdf", "svg"], default="png")
    add("--dpi", type=POSITIVE_INT, default=200)
    add("--width", choices=["one", "two"], default="two")


def spelled(name: str, value: Any, dataset_flag: str = "dataset") -> str:
    """Return a parsed flag as the user would write it: ``--moco-k 256``, ``--no-mlp``."""
    flag = {"dataset": dataset_flag}.get(name, name.replace("_", "-"))
    if value is None:
        return f"no --{flag}"
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    shown = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return f"--{flag} {shown}"
