"""Flags that the preparation scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_gen.parallel import MAX_DEFAULT_WORKERS, default_workers
from facts.class_names import read_class_names
from facts.skeletons import SKELETONS
from options.parser import POSITIVE_INT, Parser, expanded_path
from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
DATA_FOLDER = REPOSITORY / "data"
RUNS_FOLDER = REPOSITORY / "runs"  # synthetic data is kept out of data/


def add_flag(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add ``--some_name``, also spelled ``--some-name``."""
    spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
    parser.add_argument(*spellings, **settings)


def add_path_flag(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add a flag whose values are paths."""
    add_flag(parser, name, type=lambda text: Path(expanded_path(text)), metavar="PATH", **settings)


def add_number_flag(
    parser: argparse.ArgumentParser, name: str, kind: Callable[[str], float], default: float, text: str
) -> None:
    """Add a flag whose value is a number; the help text is ``text`` and the default."""
    add_flag(parser, name, type=kind, metavar="N", default=default, help=f"{text} (default: {default})")


def add_dry_run_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--dry_run``."""
    text = "only print the counts of clips next to the published ones, and what would be left out"
    add_flag(parser, "dry_run", action="store_true", help=text)


def parse_published(
    documentation: str | None, dataset: str, text: str, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Parse the flags of a script that prepares one published dataset; ``text`` is the help of the input."""
    parser = Parser(documentation)
    add_path_flag(parser, "data_path", nargs="+", required=True, help=text)
    add_dry_run_flag(parser)
    add_store_flags(parser, f"data/{dataset}")
    args = parser.parse_args(arguments)
    args.out_folder = args.out_folder or DATA_FOLDER / dataset
    return args


def add_class_flags(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--num_classes``, with the ``default`` in the help text, and ``--class_names``."""
    text = f"number of classes (default: {default})"
    add_flag(parser, "num_classes", type=POSITIVE_INT, metavar="N", help=text)
    text = "a text file with one class name per line, class 0 first; sets --num_classes"
    add_path_flag(parser, "class_names", help=text)


def read_class_flags(args: argparse.Namespace) -> tuple[str, ...]:
    """Read the file of ``--class_names``, if given, and set ``args.num_classes`` accordingly.

    Raises ``UserError`` if the file is invalid, or contradicts ``--num_classes``.
    """
    if args.class_names is None:
        return ()
    names = read_class_names(args.class_names)
    args.num_classes = args.num_classes or len(names)
    if args.num_classes != len(names):
        raise UserError(f"{args.class_names} has {len(names)} names for {args.num_classes} classes")
    return names


def add_skeleton_flag(parser: argparse.ArgumentParser, default: str | None, note: str) -> None:
    """Add ``--skeleton``; ``note`` describes the default in the help text."""
    text = (
        f"{', '.join(SKELETONS)}, or a JSON file that defines another skeleton, as described in docs/data.md"
    )
    text += f" (default: {note})"
    parser.add_argument("--skeleton", type=expanded_path, default=default, metavar="NAME|FILE", help=text)


def add_workers_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``."""
    limits = f"(default: all cores, at most {MAX_DEFAULT_WORKERS})"
    text = f"number of processes; the output does not depend on it {limits}"
    parser.add_argument("--workers", type=POSITIVE_INT, default=default_workers(), metavar="N", help=text)


def add_store_flags(parser: argparse.ArgumentParser, default: str = "data/<dataset>") -> None:
    """Add ``--out_folder`` (``default`` is for its help), ``--workers``, ``--on_error``, ``--overwrite``."""
    add_path_flag(parser, "out_folder", help=f"the store to write (default: {default})")
    add_workers_flag(parser)
    text = "on a bad input file: skip and report it, or abort without writing a store (default: skip)"
    add_flag(parser, "on_error", choices=("skip", "stop"), default="skip", help=text)
    add_flag(parser, "overwrite", action="store_true", help="replace an existing store in --out_folder")


def provenance(script: str, args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Return how a store was made, for ``store.json``: the script and the flags that determine the content.

    Paths outside of the repository are reduced to their names, so that the same input gives the same bytes on
    every machine.
    """
    return {"script": script, **{name: _portable(getattr(args, name)) for name in names}}


def _portable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_portable(item) for item in value]
    if not isinstance(value, Path):
        return value
    path = value.resolve()
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path.name)
