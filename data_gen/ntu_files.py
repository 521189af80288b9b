"""Select the skeleton files that belong to NTU RGB+D 60 or 120, and compare them with the published dataset.

Works on file names only. The published counts are those after the files on the list of missing skeletons are
left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_gen.sources import Found, Issue, RawFile, first_reason, load_contents, printable, scan_input
from data_gen.store_writer import count_splits, preview
from facts.datasets import DATASETS, NTU60_LAST_SETUP, ntu_splits, parse_ntu_name
from utils.errors import BadFile, UserError

SKELETON_SUFFIX = ".skeleton"
PROTOCOLS = ("cross_subject", "cross_view", "cross_setup")
MISSING_LISTS = {  # stems of file names as published, preferred if there are several lists
    "ntu60": ("ntu_rgbd_samples_with_missing_skeletons", "samples_with_missing_skeletons"),
    "ntu120": ("ntu_rgbd120_samples_with_missing_skeletons",),
}
MISSING_COUNTS = {"ntu60": 302, "ntu120": 535}
MAX_LIST_BYTES = 1 << 20
TEXT_SUFFIXES = ("", ".txt", ".text", ".csv", ".tsv", ".lst", ".list", ".md")
# Lines of "setup: subjects". Each subject performs 60 actions twice in front of 3 cameras.
SETUPS_FILE = Path(__file__).resolve().parents[1] / "facts" / "ntu_setups.txt"
CLIPS_PER_SUBJECT = 3 * 2 * 60  # in one setup

_NAME_LINE = re.compile(r"(?ai)[\s\"';]*(S\d{3}C\d{3}P\d{3}R\d{3}A\d{3})(\.skeleton)?[\s\"';]*")


@dataclass
class Selection:
    """The skeleton files of a dataset, in order of their names, and what happened to the other files."""

    files: list[RawFile] = field(default_factory=list)
    left_out: list[Issue] = field(default_factory=list)
    listed_as_missing: set[str] = field(default_factory=set)  # names left out because of the list
    num_other_files: int = 0  # files of NTU-120 that are not in NTU-60


def find_skeleton_files(roots: Sequence[Path], accept_name_lists: bool) -> Found:
    """Return all skeleton files under the roots, sorted by name, and everything else.

    If ``accept_name_lists``, as in a dry run, a root can also be a text file with clip names.
    """
    lists = [path for path in roots if accept_name_lists and path.is_file() and path.suffix == ".txt"]
    found = scan_input([path for path in roots if path not in lists], (SKELETON_SUFFIX,), "--data_path")
    for path in lists:
        names = _names_in(path.read_text(encoding="utf-8", errors="replace"))
        found.files += [RawFile(name, path.name, str(path)) for name in names]
    found.files.sort()
    if not found.files:
        advice = "set --data_path to the folders or archives that contain the skeleton files"
        where = f"no {SKELETON_SUFFIX} file below {', '.join(map(str, roots))}"
        raise UserError(f"{where}; {advice}{first_reason(found.left_out())}")
    return found


@dataclass
class MissingList:
    """The list of missing skeletons that is used: its path and clip names, or a warning if there is none."""

    path: Path | str | None = None  # a str inside of archives
    names: set[str] = field(default_factory=set)
    warning: str | None = None  # if there is no list


def find_missing_list(dataset: str, found: Found, path: Path | None) -> MissingList:
    """Find and read the list of missing skeletons; print which one is used.

    A list is recognized by the word "missing" in its name, or in the text above the names; its own name and
    format vary between the places where it is published. The file is removed from ``found.others``.

    ``path`` is a list, or an archive around it, to use instead; raises ``UserError`` if it has no clip name.
    """
    if path is not None:
        files = scan_input([path], (), "--ignored_sample_path").others
        given = {name for file in load_contents(files) for name in _names_in(_text_of(file))}
        if not given:
            problem = f"{path} contains no line with only a name like S001C002P005R002A008"
            raise UserError(f"{problem}; give the published list with --ignored_sample_path")
        print(f"list of missing skeletons: {path}")
        return MissingList(path, given)
    lists, hint = [], ""
    texts = [file for file in found.others if file.suffix in TEXT_SUFFIXES or "missing" in _title_of(file)]
    for file in load_contents(texts):
        text = _text_of(file)
        names = set(_names_in(text))
        if not names:
            continue
        if "missing" not in _title_of(file) and "missing" not in text.lower():
            hint = f"; it may be {printable(file.display_name)}"
        elif dataset == "ntu120" and _is_of_ntu60_only(file, names):
            hint = f"; {printable(file.display_name)} is the one of NTU-60"
        else:  # the list of NTU-120 contains that of NTU-60
            lists.append((file.name.lower() not in MISSING_LISTS[dataset], file, names))
    if not lists:
        warning = (
            f"no list of missing skeletons found, so all files are used: up to {MISSING_COUNTS[dataset]} "
            "clips that the papers leave out are in the store, and results are not comparable. Put the list "
            "that is published with the data into the data folder, or give it with --ignored_sample_path"
            f"{hint}"
        )
        print(f"WARNING: {warning}")
        return MissingList(warning=warning)
    _, file, names = min(lists, key=lambda item: item[:2])
    found.others = [other for other in found.others if other != file]
    used = Path(file.path) if file.place is None else printable(file.display_name)
    print(f"list of missing skeletons: {used}")
    return MissingList(used, names)


def _title_of(file: RawFile) -> str:
    return file.display_name.rpartition("/")[2].lower()


def _is_of_ntu60_only(file: RawFile, names: set[str]) -> bool:
    title = _title_of(file)
    if "120" in title or any(parse_ntu_name(name).setup > NTU60_LAST_SETUP for name in names):
        return False
    return "60" in title or title.startswith("ntu_rgbd_") or len(names) == MISSING_COUNTS["ntu60"]


def _text_of(file: RawFile) -> str:
    try:
        data = file.read(MAX_LIST_BYTES)
    except BadFile:
        return ""
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")


def _names_in(text: str) -> list[str]:
    return [match[1].upper() for match in map(_NAME_LINE.fullmatch, text.splitlines()) if match]


def select_files(files: Iterable[RawFile], dataset: str, missing: set[str]) -> Selection:
    """Select, from files sorted by name, the clips of ``dataset`` that are not on the list ``missing``."""
    selection = Selection()
    num_classes = DATASETS[dataset].num_classes
    for file in files:
        name = parse_ntu_name(file.name)
        failed_clips = 1
        if name is None:
            reason = "the name is not of the form SsssCcccPpppRrrrAaaa"
        elif dataset == "ntu60" and name.setup > NTU60_LAST_SETUP:
            selection.num_other_files += 1
            continue
        elif not 1 <= name.action <= num_classes:
            reason = f"action {name.action} is not one of the {num_classes} of {dataset}"
        elif file.name in missing:
            selection.listed_as_missing.add(file.name)
            reason, failed_clips = "listed as a missing skeleton", 0
        elif selection.files and selection.files[-1].name == file.name:
            reason, failed_clips = f"the same name as {selection.files[-1].display_name}, which is used", 0
        else:
            selection.files.append(file)
            continue
        selection.left_out.append(Issue(file.display_name, None, reason, failed_clips))
    if selection.num_other_files and not selection.files:
        above = f"{selection.num_other_files:,} are of setups {NTU60_LAST_SETUP + 1} and above"
        setups = f"which is setups 1 to {NTU60_LAST_SETUP}: {above}"
        raise UserError(f"no file belongs to {dataset}, {setups}; add --dataset ntu120")
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
    counts = count_splits(PROTOCOLS, (ntu_splits(parse_ntu_name(name)) for name in names))
    lines += incomplete_setups(names, dataset, missing)
    return lines + preview(dataset, counts, selection.left_out)


def incomplete_setups(names: Iterable[str], dataset: str, missing: set[str]) -> list[str]:
    """Return lines about the setups with fewer clips than published, and the subjects without any clip."""
    found: dict[int, Counter] = defaultdict(Counter)
    for name in map(parse_ntu_name, names):
        found[name.setup][name.subject] += 1
    listed = Counter(parse_ntu_name(name).setup for name in missing)
    lines = []
    for setup, subjects in read_setups(dataset).items():
        clips = sum(found[setup].values())
        published = len(subjects) * CLIPS_PER_SUBJECT - listed[setup]
        if clips < published:
            absent = [subject for subject in subjects if not found[setup][subject]]
            details = f"; no clip of subject {', '.join(map(str, absent))}" if absent and clips else ""
            lines.append(f"  setup {setup:2d}: {clips:5,} of {published:,} clips{details}")
    title = "Incomplete setups:" if lines else "Every setup is complete."
    return [title, *lines]


def read_setups(dataset: str) -> dict[int, list[int]]:
    """Return the subjects of each setup of ``dataset``; the file has ranges, ``3 7-9`` for 3, 7, 8, 9."""
    setups = {}
    for line in SETUPS_FILE.read_text().splitlines():
        setup, _, ranges = line.partition(":")
        bounds = [part.partition("-") for part in ranges.split()]
        if dataset != "ntu60" or int(setup) <= NTU60_LAST_SETUP:
            setups[int(setup)] = [n for a, _, b in bounds for n in range(int(a), int(b or a) + 1)]
    return setups
