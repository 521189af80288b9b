"""What the preparation scripts share: flags, the loop over raw files, the report at the end."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, TypeVar

from tqdm import tqdm

from data_gen.parallel import default_workers, ordered_map
from data_gen.store_writer import Outcome, StoreWriter
from dataset.store_format import SPLITS
from options.datasets import DATASETS
from options.errors import UserError

Task = TypeVar("Task")

REPOSITORY = Path(__file__).resolve().parents[1]
DATA_FOLDER = REPOSITORY / "data"
RUNS_FOLDER = REPOSITORY / "runs"  # what is made up stays out of data/
MAX_LOST_SHARE = 0.05  # more than this left out: the exit code says that something is wrong
SHOWN_REMARKS = 10


def add_flag(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add ``--some_name``, also spelled ``--some-name``."""
    spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
    parser.add_argument(*spellings, **settings)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    add_flag(parser, "workers", type=positive, default=default_workers(),
             help="processes to use; the output does not depend on it (default: all cores, at "
                  "most 16)")
    add_flag(parser, "on_error", choices=("skip", "stop"), default="skip",
             help="a bad input file: leave it out and report it, or stop without a store")
    add_flag(parser, "overwrite", action="store_true",
             help="replace the store that is in --out_folder already")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


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


def fill_store(store: StoreWriter, read: Callable[[Task], Outcome], inputs: Sequence[Task],
               args: argparse.Namespace, per_task: int = 1) -> None:
    """Turn every input into clips with ``read``, in ``args.workers`` processes, and write the
    store. ``read`` is a top-level function; a process gets ``per_task`` inputs at a time."""
    tasks = [inputs[i:i + per_task] for i in range(0, len(inputs), per_task)]
    with store, tqdm(total=len(inputs), unit="file", disable=None) as bar:
        _stop_if_asked(store, args)
        for outcomes in ordered_map(partial(_read_all, read), tasks, args.workers):
            for outcome in outcomes:
                store.take(outcome)
            _stop_if_asked(store, args)
            bar.update(len(outcomes))


def _stop_if_asked(store: StoreWriter, args: argparse.Namespace) -> None:
    lost = [remark for remark in store.left_out if remark.lost] if args.on_error == "stop" else []
    if lost:
        raise UserError(f"{lost[0]}; --on-error skip leaves out what is bad and goes on")


def _read_all(read: Callable[[Task], Outcome], inputs: Sequence[Task]) -> list[Outcome]:
    return [read(item) for item in inputs]


def beside_published(dataset: str, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Lines that put the clips found for every protocol beside the published counts."""
    info = DATASETS[dataset]
    lines = [f"{info.title}, clips found / published:"]
    for protocol in info.protocols:
        published = info.official_counts.get(protocol)
        sides = [f"{split} {counts[protocol][split]:6,}"
                 + (f" / {published[i]:,}" if published else "")
                 for i, split in enumerate(SPLITS) if protocol in counts]
        lines.append(f"  {protocol:13s}  {'   '.join(sides) or 'no split file'}")
    return lines


def report(store: StoreWriter, seconds: float) -> int:
    """Print what was written and what was left out; return the exit code of the script."""
    if store.dataset in DATASETS:
        print("\n".join(beside_published(store.dataset, store.split_counts)))
    print(f"{store.folder}: {store.num_clips:,} clips, {store.num_frames:,} frames, "
          f"{store.num_clips / seconds:,.0f} clips/s")
    lost = [remark for remark in store.left_out if remark.lost]
    for title, remarks in (("left out", lost), ("noted", store.notes)):
        for remark in remarks[:SHOWN_REMARKS]:
            print(f"  {title}: {remark}")
        if len(remarks) > SHOWN_REMARKS:
            print(f"  {title}: {len(remarks) - SHOWN_REMARKS:,} more, all in store.json")
    if len(store.left_out) > len(lost):
        print("  left out as it should be, listed as missing or a second copy: "
              f"{len(store.left_out) - len(lost):,} files")
    if store.lost_share <= MAX_LOST_SHARE:
        return 0
    print(f"{store.lost_share:.1%} of the clips were left out, more than {MAX_LOST_SHARE:.0%}: "
          "the store is written, but look at the reasons before you use it (exit code 1)")
    return 1
