"""Select the skeleton files that belong to NTU RGB+D 60 or 120, and compare them with the published dataset.

Works on file names only. The published counts are those after the files on the list of missing skeletons are
left out.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_gen.sources import Issue, RawFile, find_files, iterate_files
from data_gen.store_writer import MAX_PRINTED_ISSUES, compare_with_published
from options.datasets import DATASETS, NTU60_LAST_SETUP, ntu_splits, parse_ntu_name
from options.errors import UserError

SKELETON_SUFFIX = ".skeleton"
PROTOCOLS = ("cross_subject", "cross_view", "cross_setup")
MISSING_LISTS = {  # file names as published; the list of NTU-120 contains that of NTU-60
    "ntu60": (
        "NTU_RGBD_samples_with_missing_skeletons.txt",
        "NTU_RGBD120_samples_with_missing_skeletons.txt",
    ),
    "ntu120": ("NTU_RGBD120_samples_with_missing_skeletons.txt",),
}
# The subjects of each setup. Each performs 60 actions twice in front of 3 cameras.
SETUP_SUBJECTS = {
    1: "1-8",
    2: "3 7-14",
    3: "1-2 7-8 15-19",
    4: "3 7-8 20",
    5: "4 10 13 15-18 21",
    6: "1 7-8 15-17 19 22-24",
    7: "1 7-8 15-19 25-28",
    8: "1 7-8 15 19 25 29-36",
    9: "7-8 15-17 19 25",
    10: "7-8 13 15-19 21 25",
    11: "1-2 7-8 15-19 25 27-28 38",
    12: "7-8 15-19 25 27-28 37",
    13: "7-8 15-19 25 27-28 37",
    14: "7-8 15 17 19 25 27 37 39",
    15: "7-8 15-17 19 25 37",
    16: "7-8 19 21 25 39-40",
    17: "3 7-9 15-17 20",
    18: "8 41-45",
    19: "8 41-42 46-51",
    20: "8 41 43-44 52-54",
    21: "55-60",
    22: "61-67",
    23: "55-68",
    24: "57 60-64 67",
    25: "55-56 58-59 65-66 68",
    26: "8 41 44 49-51 69-72 74-77",
    27: "6 8 11 41 43-44 78-86",
    28: "8 41-43 46 48 70 73 87",
    29: "6 8 41 43-44 48-49 51 67 74-75 80 88-90",
    30: "8 11 41 43-44 48 67 75-76 81 85 88 91-96",
    31: "6 8 41-44 51 67 82 85 96-101",
    32: "8 41 43-44 67 102-106",
}
CLIPS_PER_SUBJECT = 3 * 2 * 60  # in one setup

_NAME_LINE = re.compile(r"\s*(S\d{3}C\d{3}P\d{3}R\d{3}A\d{3})(\.skeleton)?\s*")


@dataclass
class Selection:
    """The skeleton files of a dataset, in order of their names, and what happened to the other files."""

    files: list[RawFile] = field(default_factory=list)
    left_out: list[Issue] = field(default_factory=list)
    listed_as_missing: set[str] = field(default_factory=set)  # names left out because of the list
    num_other_files: int = 0  # files of NTU-120 that are not in NTU-60


def find_skeleton_files(roots: Sequence[Path], accept_name_lists: bool) -> list[RawFile]:
    """Return all skeleton files under the roots, sorted by name.

    If ``accept_name_lists``, as in a dry run, a root can also be a text file with clip names.
    """
    lists = [
        path for path in roots if accept_name_lists and path.is_file() and path.suffix in (".txt", ".gz")
    ]
    files = find_files([path for path in roots if path not in lists], SKELETON_SUFFIX)
    files += [file for path in lists for file in read_name_list(path)]
    if not files:
        raise UserError(
            f"no {SKELETON_SUFFIX} file below {', '.join(map(str, roots))}; set --data_path to "
            "the folders or archives that contain the skeleton files"
        )
    return sorted(files)


def read_name_list(path: Path) -> list[RawFile]:
    """Return the clip names of a text file (also .gz), one per line, as files that cannot be read."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            names = [match[1] for match in map(_NAME_LINE.fullmatch, file) if match]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of clip names: {error}") from error
    return [RawFile(name, path.name, str(path)) for name in names]


def find_missing_list(dataset: str, roots: Sequence[Path], path: Path | None) -> tuple[Path | None, set[str]]:
    """Find and read the published list of missing skeletons; print which one is used.

    Args:
        dataset: "ntu60" or "ntu120".
        roots: searched for the file names of ``MISSING_LISTS``.
        path: the list to use instead of searching for one.

    Returns:
        the path of the list, and the clip names on it; None and no names if there is no list.
    """
    if path is None:
        wanted = MISSING_LISTS[dataset]
        found = {file.name: file for root in roots for file in iterate_files(root) if file.name in wanted}
        path = next((found[name] for name in wanted if name in found), None)
    if path is None:
        print("no list of missing skeletons found: all files are used")
        return None, set()
    print(f"list of missing skeletons: {path}")
    return path, read_missing_list(path)


def read_missing_list(path: Path) -> set[str]:
    """Return the clip names on a published list of missing skeletons; other lines of the file are skipped."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give the list of missing skeletons with "
            "--ignored_sample_path"
        ) from error
    names = {match[1] for match in map(_NAME_LINE.fullmatch, text.splitlines()) if match}
    if not names:
        raise UserError(
            f"{path} contains no line with only a name like S001C002P005R002A008; give the published list "
            "with --ignored_sample_path"
        )
    return names


def select_files(files: Iterable[RawFile], dataset: str, missing: set[str]) -> Selection:
    """Select the files that become clips of ``dataset``.

    Args:
        files: sorted by name.
        dataset: "ntu60" or "ntu120".
        missing: clip names on the list of missing skeletons.
    """
    selection = Selection()
    num_classes = DATASETS[dataset].num_classes

    def leave_out(file: RawFile, reason: str, failed_clips: int = 1) -> None:
        selection.left_out.append(Issue(file.display_name, None, reason, failed_clips))

    for file in files:
        name = parse_ntu_name(file.name)
        if name is None:
            leave_out(file, "the name is not of the form SsssCcccPpppRrrrAaaa")
        elif dataset == "ntu60" and name.setup > NTU60_LAST_SETUP:
            selection.num_other_files += 1
        elif not 1 <= name.action <= num_classes:
            leave_out(file, f"action {name.action} is not one of the {num_classes} of {dataset}")
        elif file.name in missing:
            selection.listed_as_missing.add(file.name)
            leave_out(file, "listed as a missing skeleton", failed_clips=0)
        elif selection.files and selection.files[-1].name == file.name:
            used = selection.files[-1].display_name
            leave_out(file, f"the same name as {used}, which is used", failed_clips=0)
        else:
            selection.files.append(file)
    return selection


def dry_run_report(selection: Selection, dataset: str, missing: set[str]) -> list[str]:
    """Return lines about what a preparation would find, and which published clips are absent."""
    names = [file.name for file in selection.files]
    if dataset == "ntu60":
        missing = {name for name in missing if parse_ntu_name(name).setup <= NTU60_LAST_SETUP}
    absent = sorted(missing - selection.listed_as_missing)
    present = len(selection.listed_as_missing)
    lines = [
        f"Of {len(missing)} names on the list of missing skeletons, {present} are present and would be left "
        + ("out, the others are absent:" if absent and present else "out.")
    ]
    if present:
        lines += ["  " + " ".join(absent[i : i + 4]) for i in range(0, len(absent), 4)]
    failed = [issue for issue in selection.left_out if issue.failed_clips]
    lines += [f"Would be left out: {issue}" for issue in failed[:MAX_PRINTED_ISSUES]]
    if len(failed) > MAX_PRINTED_ISSUES:
        lines.append(f"... and {len(failed) - MAX_PRINTED_ISSUES:,} more files")
    counts = {protocol: Counter() for protocol in PROTOCOLS}
    for name in names:
        for protocol, split in ntu_splits(parse_ntu_name(name)).items():
            counts[protocol][split] += 1
    return lines + incomplete_setups(names, dataset, missing) + compare_with_published(dataset, counts)


def incomplete_setups(names: Iterable[str], dataset: str, missing: set[str]) -> list[str]:
    """Return lines about the setups with fewer clips than published, and the subjects without any clip."""
    found: dict[int, Counter] = defaultdict(Counter)
    for name in map(parse_ntu_name, names):
        found[name.setup][name.subject] += 1
    listed = Counter(parse_ntu_name(name).setup for name in missing)
    lines = []
    for setup, ranges in SETUP_SUBJECTS.items():
        if dataset == "ntu60" and setup > NTU60_LAST_SETUP:
            continue
        subjects = parse_ranges(ranges)
        clips = sum(found[setup].values())
        published = len(subjects) * CLIPS_PER_SUBJECT - listed[setup]
        if clips < published:
            absent = [subject for subject in subjects if not found[setup][subject]]
            details = f"; no clip of subject {', '.join(map(str, absent))}" if absent and clips else ""
            lines.append(f"  setup {setup:2d}: {clips:5,} of {published:,} clips{details}")
    title = "Incomplete setups:" if lines else "Every setup is complete."
    return [title, *lines]


def parse_ranges(text: str) -> list[int]:
    """Return ``"3 7-9"`` as [3, 7, 8, 9]."""
    bounds = [part.partition("-") for part in text.split()]
    return [n for first, _, last in bounds for n in range(int(first), int(last or first) + 1)]
