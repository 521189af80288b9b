"""Write a store: read every input file into clips, append them to the store, and report the result.

``dataset/store_format.py`` describes the files of a store. A reader is a function from one input file to a
``FileResult``; all preparation scripts pass theirs to ``prepare``.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from data_gen.output_folder import atomic_folder, check_folder, write_errors
from data_gen.parallel import ordered_map
from data_gen.sources import Issue, RawFile, first_reason, load_contents
from data_gen.units import UnitCheck
from dataset import store_format as layout
from facts.class_names import published_class_names
from facts.datasets import DATASETS
from facts.skeletons import KINECT_V2, Skeleton
from utils.errors import BadFile, UserError
from utils.files import write_csv, write_json

Input = TypeVar("Input")  # with a ``display_name``, shown if it is left out

TOTALS = ("clips", "frames")  # keys of the counts in store.json, before the protocols
MAX_FAILED_SHARE = 0.05  # exit code 1 if more of the clips failed
MAX_PRINTED_ISSUES = 10


@dataclass
class Clip:
    """One clip to store: ``frames`` is float32 (frames, V, 3, 2 people).

    Labels count from 0; ``NO_LABEL`` means none.
    """

    name: str
    label: int
    frames: np.ndarray
    splits: Mapping[str, str]  # protocol -> "train" or "val"; a clip may be absent from a protocol
    is_normalized: bool = False  # all coordinates of the input were between 0 and 1, see data_gen.units


@dataclass
class FileResult:
    """The result of reading one input file: its clips, errors, and notes."""

    clips: list[Clip] = field(default_factory=list)
    left_out: list[Issue] = field(default_factory=list)
    notes: list[Issue] = field(default_factory=list)


def prepare(
    store: StoreWriter,
    read: Callable[[Input], FileResult],
    inputs: Iterable[Input],
    args: argparse.Namespace,
    inputs_per_task: int = 16,
    unit: str = "file",
) -> int:
    """Read every input into clips, write the store, and report; return the exit code of the script.

    ``read``, a top-level function or a ``functools.partial`` of one, raises ``BadFile`` for input that is
    left out; if ``args.on_error`` is "stop", that is a ``UserError``, and no store is written. ``inputs``, in
    any order, are consumed with a bounded lead, ``inputs_per_task`` at a time, by ``args.workers`` processes.
    """
    start = time.perf_counter()
    iterator = iter(inputs)
    tasks = iter(lambda: list(islice(iterator, inputs_per_task)), [])
    with store, tqdm(total=length_hint(inputs) or None, unit=unit, disable=None) as progress:
        _check_errors(store, args.on_error)
        for results in ordered_map(partial(_read_all, read), tasks, args.workers):
            for result in results:
                store.add_result(result)
            _check_errors(store, args.on_error)
            progress.update(len(results))
    return report(store, time.perf_counter() - start)


def prepare_files(
    store: StoreWriter,
    files: Sequence[RawFile],
    splits_of: Callable[[RawFile], Mapping[str, str]],
    read: Callable[[RawFile], FileResult],
    args: argparse.Namespace,
) -> int:
    """Prepare a published dataset of one clip per file; ``--dry-run`` only counts the clips per split."""
    if args.dry_run:
        counts = count_splits(store.protocols, map(splits_of, files))
        print("\n".join(preview(store.dataset, counts, store.left_out)))
        return 0
    return prepare(store, read, load_contents(files), args)


def _read_all(read: Callable[[Input], FileResult], inputs: Sequence[Input]) -> list[FileResult]:
    results = []
    for item in inputs:
        try:
            results.append(read(item))
        except BadFile as error:
            results.append(FileResult(left_out=[Issue.of(error, item.display_name)]))
    return results


def _check_errors(store: StoreWriter, on_error: str) -> None:
    failed = [issue for issue in store.left_out if issue.failed_clips] if on_error == "stop" else []
    if failed:
        raise UserError(f"{failed[0]}; use --on-error skip to leave out bad files and continue")


def report(store: StoreWriter, seconds: float) -> int:
    """Print what was written and what was left out; return the exit code of the script."""
    print("\n".join(compare_with_published(store.dataset, store.split_counts)))
    speed = f"{store.num_clips / seconds:,.0f} clips/s"
    print(f"{store.folder}: {store.num_clips:,} clips, {store.num_frames:,} frames, {speed}")
    failed = [issue for issue in store.left_out if issue.failed_clips]
    failed.sort(key=lambda issue: not issue.is_container)  # folders and archives first
    for title, issues in (("left out", failed), ("note", store.notes)):
        for issue in issues[:MAX_PRINTED_ISSUES]:
            print(f"  {title}: {issue}")
        if len(issues) > MAX_PRINTED_ISSUES:
            print(f"  {title}: {len(issues) - MAX_PRINTED_ISSUES:,} more, all listed in store.json")
    on_purpose = [issue for issue in store.left_out if not issue.failed_clips]
    for reason, count in Counter(issue.reason for issue in on_purpose).most_common(MAX_PRINTED_ISSUES):
        example = next(issue for issue in on_purpose if issue.reason == reason)
        print(f"  left out: {f'{count:,} files, such as ' if count > 1 else ''}{example}")
    for warning in filter(None, [*store.warnings, store.units.warning()]):
        print(f"WARNING: {warning}")
    containers = sum(issue.is_container for issue in store.left_out)
    problems = [f"{containers:,} archives or folders could not be read completely"] if containers else []
    failed_clips = sum(issue.failed_clips for issue in failed)
    share = failed_clips / max(failed_clips + store.num_clips, 1)
    if share > MAX_FAILED_SHARE:
        problems.append(f"{share:.1%} of the clips were left out, more than {MAX_FAILED_SHARE:.0%}")
    for problem in problems:
        print(f"{problem}: the store was written, but check the reasons in store.json (exit code 1)")
    return min(len(problems), 1)


def count_splits(protocols: Sequence[str], splits: Iterable[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """Return protocol -> split -> number of clips; ``splits`` maps protocols to splits, per clip."""
    counts = {protocol: dict.fromkeys(layout.SPLITS, 0) for protocol in protocols}
    for clip_splits in splits:
        for protocol, split in clip_splits.items():
            counts[protocol][split] += 1
    return counts


def preview(
    dataset: str, counts: Mapping[str, Mapping[str, int]], left_out: Sequence[Issue] = ()
) -> list[str]:
    """Return lines on what a preparation would store and leave out, for ``--dry-run``."""
    lines = compare_with_published(dataset, counts)
    failed = [issue for issue in left_out if issue.failed_clips]
    lines += [f"Would be left out: {issue}" for issue in failed[:MAX_PRINTED_ISSUES]]
    if len(failed) > MAX_PRINTED_ISSUES:
        lines.append(f"... and {len(failed) - MAX_PRINTED_ISSUES:,} more")
    return lines


def compare_with_published(dataset: str, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return lines with the number of clips found per protocol and split, next to any published numbers."""
    info = DATASETS.get(dataset)
    lines = [f"{info.title}, clips found / published:" if info else f"{dataset}, clips found:"]
    for protocol in info.protocols if info else counts:
        published = info.official_counts.get(protocol) if info else None
        splits = [
            f"{split} {count:6,}" + (f" / {published[i]:,}" if published else "")
            for i, (split, count) in enumerate(counts.get(protocol, {}).items())
        ]
        lines.append(f"  {protocol:13s}  {'   '.join(splits) or 'no split file'}")
    return lines


class StoreWriter:
    """Write one store atomically, in a ``with`` block.

    An exception in the block leaves nothing behind. Clips are written at once, so memory does not grow with
    their frames, and sorted by name at the end. ``class_names`` can be set before the block: one name per
    class, by default those of ``facts.class_names``. ``provenance`` is how the store was made.

        with StoreWriter("data/mine", "mine", num_classes=4, protocols=["cross_subject"]) as store:
            store.add(Clip("a", 0, frames, {"cross_subject": "train"}))
    """

    def __init__(
        self,
        folder: str | Path,
        dataset: str,
        num_classes: int,
        protocols: Sequence[str],
        provenance: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        skeleton: Skeleton = KINECT_V2,
    ) -> None:
        self.folder = Path(os.path.abspath(os.path.expanduser(folder)))
        self.dataset, self.num_classes, self.protocols = dataset, num_classes, tuple(protocols)
        self.provenance = {**(provenance or {}), "numpy": np.__version__}
        self.class_names: Sequence[str] = published_class_names(dataset, num_classes)
        self.left_out: list[Issue] = []
        self.notes: list[Issue] = []
        self.skeleton, self.units = skeleton, UnitCheck(skeleton)
        self.warnings: list[str] = []  # printed at the end by ``report``
        self.rows: dict[str, tuple[int, int, int, Mapping[str, str]]] = {}  # see ``add``
        self.num_frames = 0
        self.split_counts = count_splits(self.protocols, [])
        self._overwrite = overwrite
        if num_classes > layout.MAX_CLASSES:
            limit = f"{layout.MAX_CLASSES:,} classes"
            raise UserError(f"a store has at most {limit}; labels must be less than that")
        reserved, names = (*layout.CLIP_COLUMNS, *TOTALS), f"protocols {', '.join(self.protocols)}"
        if len(set(self.protocols) - {*reserved, ""}) < len(self.protocols):
            reason = f"the names must differ from each other and from {', '.join(reserved)}"
            raise UserError(f"{names}: {reason}")

    def __enter__(self) -> StoreWriter:
        self._context = self._open()
        return self._context.__enter__()

    def __exit__(self, *exception: Any) -> bool | None:
        return self._context.__exit__(*exception)

    @contextmanager
    def _open(self) -> Iterator[StoreWriter]:
        if self.class_names and len(self.class_names) != self.num_classes:
            raise UserError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        check = partial(check_target, self.folder, self._overwrite)
        with atomic_folder(self.folder, check) as folder:
            self._frames = open(folder / layout.FRAMES_FILE, "w+b", buffering=1 << 20)
            try:
                self._write_header()  # for 0 frames; overwritten at the end
                yield self
                with write_errors(self.folder):
                    self._finish(folder)
            finally:
                with suppress(OSError):  # a full disk fails again for what is still buffered
                    self._frames.close()

    @property
    def num_clips(self) -> int:
        return len(self.rows)

    def add(self, clip: Clip) -> None:
        """Append a clip. Raises ``ValueError`` if a store cannot contain it."""
        frames, shape = clip.frames, self.skeleton.frame_shape
        known = {(protocol, split) for protocol in self.protocols for split in layout.SPLITS}
        bad_splits = [f"{name}={split}" for name, split in clip.splits.items() if (name, split) not in known]
        problems = {
            f"frames are {frames.dtype} {frames.shape}, not float32 (at least 1, {str(shape)[1:]}": (
                frames.dtype != np.float32 or frames.shape[1:] != shape or not len(frames)
            ),
            "a coordinate is not finite": not np.isfinite(frames).all(),
            f"label {clip.label} is not one of the {self.num_classes} classes, counted from 0": (
                clip.label != layout.NO_LABEL and not 0 <= clip.label < self.num_classes
            ),
            "the name occurs twice": clip.name in self.rows,
            f"{', '.join(bad_splits)} is not a split of this store": bool(bad_splits),
        }
        for problem, is_present in problems.items():
            if is_present:
                raise ValueError(f"clip {clip.name}: {problem}")
        with write_errors(self.folder):
            self._frames.write(np.ascontiguousarray(frames).data)
        self.rows[clip.name] = (clip.label, self.num_frames, len(frames), clip.splits)
        self.num_frames += len(frames)
        self.units.add(frames, clip.is_normalized)
        for protocol, split in clip.splits.items():
            self.split_counts[protocol][split] += 1

    def add_result(self, result: FileResult) -> None:
        """Append the clips of one input file, and keep its issues for ``store.json``."""
        for clip in result.clips:
            self.add(clip)
        self.left_out += result.left_out
        self.notes += result.notes

    def _finish(self, folder: Path) -> None:
        if not self.num_clips:
            reason = first_reason(self.left_out)
            raise UserError(f"the input contains no valid clip, so no store was written{reason}")
        if list(self.rows) != sorted(self.rows):
            self._sort(folder)
        self._frames.seek(0)
        self._write_header()
        self._frames.flush()
        os.fsync(self._frames.fileno())
        rows = (
            ["" if cell == layout.NO_LABEL else cell for cell in (name, *numbers)]
            + [splits.get(protocol, "") for protocol in self.protocols]
            for name, (*numbers, splits) in self.rows.items()
        )
        write_csv(folder / layout.CLIPS_FILE, [*layout.CLIP_COLUMNS, *self.protocols], rows)
        write_json(folder / layout.INFO_FILE, self._info())

    def _write_header(self) -> None:
        """Write the header of ``frames.npy``, which has the same length for any number of frames."""
        shape = (self.num_frames, *self.skeleton.frame_shape)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._frames, header)

    def _sort(self, folder: Path) -> None:
        """Bring the clips, whose files can be in any order in an archive, into the order of their names."""
        frame_bytes = math.prod(self.skeleton.frame_shape) * np.dtype(np.float32).itemsize
        unsorted_rows, self.rows, self.num_frames = self.rows, {}, 0
        os.unlink(folder / layout.FRAMES_FILE)
        with self._frames as unsorted:  # still readable
            self._frames = open(folder / layout.FRAMES_FILE, "wb", buffering=1 << 20)
            self._write_header()
            start = self._frames.tell()
            for name in sorted(unsorted_rows):
                label, first_frame, num_frames, splits = unsorted_rows[name]
                unsorted.seek(start + first_frame * frame_bytes)
                self._frames.write(unsorted.read(num_frames * frame_bytes))
                self.rows[name] = (label, self.num_frames, num_frames, splits)
                self.num_frames += num_frames

    def _info(self) -> dict[str, Any]:
        return {
            "format_version": layout.FORMAT_VERSION,
            "dataset": self.dataset,
            "skeleton": self.skeleton.to_data(),
            "num_classes": self.num_classes,
            **({"class_names": list(self.class_names)} if self.class_names else {}),
            "protocols": list(self.protocols),
            "counts": {**dict(zip(TOTALS, (self.num_clips, self.num_frames))), **self.split_counts},
            "made_by": self.provenance,
            "left_out": _sorted_json(self.left_out),
            "notes": _sorted_json(self.notes),
        }


def check_target(folder: Path, overwrite: bool) -> None:
    """Raise ``UserError`` unless a store may be written to ``folder``."""
    is_store = (folder / layout.INFO_FILE).is_file()
    if is_store and not overwrite:
        problem = "already contains a store; add --overwrite to replace it, or"
    elif folder.exists() and not is_store and not (folder.is_dir() and not any(folder.iterdir())):
        problem = "exists but is not a store and is not replaced;"
    else:
        return check_folder(folder)
    raise UserError(f"{folder} {problem} choose another --out_folder")


def _sorted_json(issues: Sequence[Issue]) -> list[dict[str, Any]]:
    ordered = sorted(issues, key=lambda issue: (issue.file, issue.line or 0, issue.reason))
    return [{"file": issue.file, "line": issue.line, "reason": issue.reason} for issue in ordered]
