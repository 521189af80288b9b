"""Which NTU RGB+D files belong to a data set, and how what is there compares to what was published.

Only names are looked at here. The counts are those of the published sets after the files on the
list of missing skeletons are left out.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Sequence

from data_gen.command_line import beside_published
from data_gen.sources import RawFile, walk
from data_gen.store_writer import Remark
from options.datasets import DATASETS, NTU60_LAST_SETUP, ntu_splits, parse_ntu_name
from options.errors import UserError

SKELETON_SUFFIX = ".skeleton"
PROTOCOLS = ("cross_subject", "cross_view", "cross_setup")
IGNORED_LISTS = {  # as published; the list of NTU-120 contains that of NTU-60
    "ntu60": ("NTU_RGBD_samples_with_missing_skeletons.txt",
              "NTU_RGBD120_samples_with_missing_skeletons.txt"),
    "ntu120": ("NTU_RGBD120_samples_with_missing_skeletons.txt",),
}
# Who was recorded in which setup, each by 3 cameras, twice, in the 60 actions of the data set.
SETUP_SUBJECTS = {
    1: "1-8", 2: "3 7-14", 3: "1-2 7-8 15-19", 4: "3 7-8 20", 5: "4 10 13 15-18 21",
    6: "1 7-8 15-17 19 22-24", 7: "1 7-8 15-19 25-28", 8: "1 7-8 15 19 25 29-36",
    9: "7-8 15-17 19 25", 10: "7-8 13 15-19 21 25", 11: "1-2 7-8 15-19 25 27-28 38",
    12: "7-8 15-19 25 27-28 37", 13: "7-8 15-19 25 27-28 37", 14: "7-8 15 17 19 25 27 37 39",
    15: "7-8 15-17 19 25 37", 16: "7-8 19 21 25 39-40", 17: "3 7-9 15-17 20",
    18: "8 41-45", 19: "8 41-42 46-51", 20: "8 41 43-44 52-54", 21: "55-60", 22: "61-67",
    23: "55-68", 24: "57 60-64 67", 25: "55-56 58-59 65-66 68", 26: "8 41 44 49-51 69-72 74-77",
    27: "6 8 11 41 43-44 78-86", 28: "8 41-43 46 48 70 73 87",
    29: "6 8 41 43-44 48-49 51 67 74-75 80 88-90",
    30: "8 11 41 43-44 48 67 75-76 81 85 88 91-96", 31: "6 8 41-44 51 67 82 85 96-101",
    32: "8 41 43-44 67 102-106",
}
CLIPS_PER_SUBJECT = 3 * 2 * 60  # in one setup

_NAME_LINE = re.compile(r"\s*(S\d{3}C\d{3}P\d{3}R\d{3}A\d{3})(\.skeleton)?\s*")


@dataclass
class Selection:
    """The files to read, in order of their names, and what happened to the others."""

    files: list[RawFile] = field(default_factory=list)
    left_out: list[Remark] = field(default_factory=list)
    not_in_dataset: int = 0
    ignored: set[str] = field(default_factory=set)  # names that the list of missing ones removed


def read_ignored_list(path: Path) -> set[str]:
    """The names in a published list of missing skeletons; its lines of prose are passed over."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the list of missing "
                        "skeletons with --ignored_sample_path") from error
    names = {match[1] for match in map(_NAME_LINE.fullmatch, text.splitlines()) if match}
    if not names:
        raise UserError(f"{path} holds no name like S001C002P005R002A008 on a line of its own; "
                        "give the published list with --ignored_sample_path")
    return names


def find_ignored_list(dataset: str, roots: Sequence[Path]) -> Path | None:
    """The published list of this data set somewhere below the roots, by its file name."""
    wanted = IGNORED_LISTS[dataset]
    found = {path.name: path for root in roots for path in walk(root) if path.name in wanted}
    return next((found[name] for name in wanted if name in found), None)


def select(files: Iterable[RawFile], dataset: str, ignored: set[str]) -> Selection:
    """Sort out which of the raw files (ordered by name) become clips of ``dataset``."""
    chosen = Selection()
    num_classes = DATASETS[dataset].num_classes
    previous: RawFile | None = None
    for file in files:
        name = parse_ntu_name(file.name)
        if name is None:
            chosen.left_out.append(Remark(file.shown, None, "the name is not of the form "
                                          "SsssCcccPpppRrrrAaaa"))
        elif dataset == "ntu60" and name.setup > NTU60_LAST_SETUP:
            chosen.not_in_dataset += 1
        elif not 1 <= name.action <= num_classes:
            chosen.left_out.append(Remark(file.shown, None, f"action {name.action} is not one of "
                                          f"the {num_classes} of {dataset}"))
        elif file.name in ignored:
            chosen.ignored.add(file.name)
            chosen.left_out.append(Remark(file.shown, None, "on the list of missing skeletons",
                                          lost=0))
        elif previous is not None and previous.name == file.name:
            chosen.left_out.append(Remark(file.shown, None, "the same name as "
                                          f"{previous.shown}, which is used", lost=0))
        else:
            chosen.files.append(file)
            previous = file
    return chosen


def dry_run_report(selection: Selection, dataset: str, ignored: set[str]) -> list[str]:
    """What a preparation would find, from names alone, and what is missing."""
    names = [file.name for file in selection.files]
    if dataset == "ntu60":
        ignored = {name for name in ignored if parse_ntu_name(name).setup <= NTU60_LAST_SETUP}
    absent = sorted(ignored - selection.ignored)
    lines = [f"Of {len(ignored)} names on the list of missing skeletons, "
             f"{len(selection.ignored)} are here and would be left out"
             + (", the others are absent:" if absent and selection.ignored else ".")]
    if selection.ignored:
        lines += ["  " + " ".join(absent[i:i + 4]) for i in range(0, len(absent), 4)]
    others = [remark for remark in selection.left_out if remark.lost]
    lines += [f"Would be left out: {remark}" for remark in others[:10]]
    if len(others) > 10:
        lines.append(f"... and {len(others) - 10:,} more files")
    counts = {protocol: Counter() for protocol in PROTOCOLS}
    for name in names:
        for protocol, split in ntu_splits(parse_ntu_name(name)).items():
            counts[protocol][split] += 1
    return (lines + incomplete_setups(names, dataset, ignored)
            + beside_published(dataset, counts))


def incomplete_setups(names: Iterable[str], dataset: str, ignored: set[str]) -> list[str]:
    """Lines that say which setups have fewer clips than published, and who is absent from them."""
    found: dict[int, Counter] = defaultdict(Counter)
    for name in map(parse_ntu_name, names):
        found[name.setup][name.subject] += 1
    listed = Counter(parse_ntu_name(name).setup for name in ignored)
    lines = []
    for setup, ranges in SETUP_SUBJECTS.items():
        if dataset == "ntu60" and setup > NTU60_LAST_SETUP:
            continue
        subjects = _numbers(ranges)
        clips = sum(found[setup].values())
        published = len(subjects) * CLIPS_PER_SUBJECT - listed[setup]
        if clips < published:
            absent = [subject for subject in subjects if not found[setup][subject]]
            who = f"; no clip of subject {', '.join(map(str, absent))}" if absent and clips else ""
            lines.append(f"  setup {setup:2d}: {clips:5,} of {published:,} clips{who}")
    title = "Incomplete setups:" if lines else "Every setup is complete."
    return [title, *lines]


def _numbers(ranges: str) -> list[int]:
    """``"3 7-9"`` as [3, 7, 8, 9]."""
    bounds = [part.partition("-") for part in ranges.split()]
    return [n for first, _, last in bounds for n in range(int(first), int(last or first) + 1)]


def read_name_list(path: Path) -> list[RawFile]:
    """Clip names, one a line, from a text file (also .gz), for a dry run without the files."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            names = [match[1] for match in map(_NAME_LINE.fullmatch, file) if match]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of clip names: {error}") from error
    return sorted(RawFile(name, path.name, str(path)) for name in names)
