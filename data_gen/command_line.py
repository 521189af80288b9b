"""Flags and endings that the preparation scripts share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data_gen.parallel import default_workers
from data_gen.store_writer import StoreWriter

REPOSITORY = Path(__file__).resolve().parents[1]
DATA_FOLDER = REPOSITORY / "data"
MAX_LOST_SHARE = 0.05  # more than this left out: the exit code says that something is wrong
SHOWN_REMARKS = 10


def add_flag(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add ``--some_name``, also spelled ``--some-name``."""
    spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
    parser.add_argument(*spellings, **settings)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    add_flag(parser, "workers", type=int, default=default_workers(),
             help="processes to use; the output does not depend on it (default: all cores)")
    add_flag(parser, "on_error", choices=("skip", "stop"), default="skip",
             help="a bad input file: leave it out and report it, or stop without a store")
    add_flag(parser, "overwrite", action="store_true",
             help="replace the store that is in --out_folder already")


def made_by(script: str, args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """How a store was made, for ``store.json``: flags that decide the content, without the paths
    of this machine, so that the same input gives the same bytes anywhere."""
    return {"script": script, **{name: _portable(getattr(args, name)) for name in names}}


def _portable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_portable(item) for item in value]
    if not isinstance(value, Path):
        return value
    path = value.resolve()
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path.name)


def report(store: StoreWriter, seconds: float) -> int:
    """Print what was written and what was left out; return the exit code of the script."""
    print(f"{store.folder}: {store.num_clips:,} clips, {store.num_frames:,} frames, "
          f"{store.num_clips / seconds:,.0f} clips/s")
    for title, remarks in (("left out", store.left_out), ("noted", store.notes)):
        for remark in remarks[:SHOWN_REMARKS]:
            print(f"  {title}: {remark}")
        if len(remarks) > SHOWN_REMARKS:
            print(f"  {title}: {len(remarks) - SHOWN_REMARKS:,} more, all in store.json")
    if store.lost_share <= MAX_LOST_SHARE:
        return 0
    print(f"{store.lost_share:.1%} of the clips were left out, more than {MAX_LOST_SHARE:.0%}: "
          "the store is written, but look at the reasons before you use it (exit code 1)")
    return 1
