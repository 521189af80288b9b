"""Read the label and split files of PKU-MMD (Liu et al., 2017), and match them with the videos.

    labels     one action per line: class,start,end,confidence; classes from 1; the frames of the action are
               [start:end], counted from 0
    split      four lines: a heading, the training videos, a heading, the test videos; names with commas

``skeleton_file.read_pku_skeleton`` reads the skeletons.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_gen.sources import Issue, RawFile, find_raw_files, first_reason, load_contents, printable
from utils.errors import BadFile, UserError, parse_errors

SUFFIX = ".txt"
HEAD_BYTES = 4096
PROTOCOL_WORDS = {"subject": "cross_subject", "view": "cross_view"}  # in the names of split files
MIN_SKELETON_FIELDS = 50  # far more than a label or a name, also if a line is damaged
_SUFFIX = re.compile(r"\.(txt|avi|mp4|mkv|mov|wmv|skeleton|npy|csv)$", re.IGNORECASE)
_LABEL_LINE = re.compile(r"(\s*-?\d{1,9}\s*,){2}\s*-?\d{1,9}\s*(,[^,]*)?", re.ASCII)
_SPLIT_HEADING = re.compile(r"\s*(training|train|test|valid)\w*\s+video", re.IGNORECASE)
UNKNOWN = "unknown"  # the kind of a file


@dataclass(frozen=True)
class Video:
    """One video: its skeletons, its labels, and its split in every protocol."""

    skeletons: RawFile
    labels: RawFile
    splits: dict[str, str]  # protocol -> "train" or "val"

    @property
    def display_name(self) -> str:
        """The name in reports."""
        return self.skeletons.display_name


@dataclass
class Action:
    """One line of a label file: ``label`` counts classes from 0, the frames are [start:end]."""

    label: int
    start: int
    end: int
    line: int


def find_videos(
    data_path: Sequence[Path], label_path: Sequence[Path], splits: dict[str, dict[str, str]]
) -> tuple[list[Video], list[Issue]]:
    """Match skeleton files, label files and splits by the name of the video.

    One folder or archive may contain all kinds of files: they are recognized by their content. Returns the
    videos in the order of their clips, and the issues of files that are left out. Raises ``UserError`` if no
    video remains, or if different files have the same name.
    """
    left_out: list[Issue] = []
    skeletons, skeleton_counts = _by_name(data_path, "skeletons", "--data_path", left_out)
    labels, label_counts = _by_name(label_path, "labels", "--label_path", left_out)
    # The names of clips begin with the video's name and an underscore.
    keys = sorted(skeletons.keys() & labels.keys(), key=lambda key: f"{skeletons[key].name}_")
    if not keys:
        raise UserError(
            f"no video has a skeleton file below --data_path ({skeleton_counts}) and a label file of the "
            f"same name below --label_path ({label_counts}){first_reason(left_out)}"
        )
    for files, others, kind in ((skeletons, labels, "label"), (labels, skeletons, "skeleton")):
        unmatched = [files[key] for key in sorted(files.keys() - others.keys())]
        reason = f"no {kind} file has this name"
        left_out += [Issue(file.display_name, None, reason) for file in unmatched]
    videos = []
    for key in keys:
        video_splits = {protocol: split[key] for protocol, split in splits.items() if key in split}
        videos.append(Video(skeletons[key], labels[key], video_splits))
    unique = {(issue.file, issue.reason): issue for issue in left_out}  # a folder may be searched twice
    return videos, list(unique.values())


def load_videos(videos: Sequence[Video]) -> Iterable[Video]:
    """Return the videos in an order in which each archive is read only once; see ``load_contents``."""
    if not any(video.skeletons.is_streamed for video in videos):
        return videos
    by_name = {video.skeletons.name: video for video in videos}
    files = load_contents([video.skeletons for video in videos])
    return (replace(by_name[file.name], skeletons=file) for file in files)


def split_warnings(videos: Sequence[Video], splits: dict[str, dict[str, str]]) -> list[str]:
    """Return a warning for every protocol whose split file does not list some of the videos.

    Raises ``UserError`` if no split file lists any video.
    """
    warnings = []
    for protocol, split in splits.items():
        unlisted = [video.skeletons.name for video in videos if protocol not in video.splits]
        if unlisted:
            warnings.append(
                f"{len(unlisted):,} of {len(videos):,} videos, such as {printable(unlisted[0])}, are not in "
                f"the split file of {protocol}, which lists names such as {printable(min(split))}: their "
                "clips are neither training nor validation clips"
            )
    if not any(video.splits for video in videos):
        raise UserError(f"{warnings[0]}; check --split_path")
    return warnings


def video_key(name: str) -> str:
    """Return the name of a video as in all files of the dataset: without folder, suffix and case."""
    stem = name.strip("\"'").replace("\\", "/").rpartition("/")[2]
    while (shorter := _SUFFIX.sub("", stem)) not in (stem, ""):
        stem = shorter
    return stem.upper()


def _by_name(
    roots: Sequence[Path], kind: str, flag: str, left_out: list[Issue]
) -> tuple[dict[str, RawFile], str]:
    """Return the files of one kind by ``video_key``, and a text on how many files of which kind there are.

    Duplicates are appended to ``left_out``. Raises ``UserError`` if their contents differ.
    """
    by_name: dict[str, RawFile] = {}
    counts: Counter[str] = Counter()
    files = []
    for file in load_contents(find_raw_files(roots, SUFFIX, flag, left_out)):
        found = file_kind(file)
        if found != "labels" and file.is_streamed:
            file = replace(file, content=None)  # it would fill the memory, and is read again later
        files.append((found, file))
    for found, file in sorted(files, key=lambda item: (item[0] != kind, item[1])):
        counts[found] += 1
        if found not in (kind, UNKNOWN):
            continue
        used = by_name.setdefault(video_key(file.name), file)
        if used is not file and found == kind:
            if file.read() != used.read():
                raise UserError(
                    f"{flag}: {used.display_name} and {file.display_name} are different files of the same "
                    "name; give the folder of one part of the dataset"
                )
            reason = f"the same file as {used.display_name}, which is used"
            left_out.append(Issue(file.display_name, None, reason, failed_clips=0))
    details = "".join(f", {count:,} with {found}" for found, count in counts.items() if found != UNKNOWN)
    return by_name, f"{len(files):,} .txt files{details}"


def file_kind(file: RawFile) -> str:
    """Return what the beginning of a file contains: "skeletons", "labels", "splits", or ``UNKNOWN``."""
    try:
        head = file.read(HEAD_BYTES)[:HEAD_BYTES]
    except BadFile:
        return UNKNOWN
    lines = head.decode("utf-8-sig", "replace").splitlines()
    first = next((line for line in lines if line.strip()), "")
    if len(first.split()) >= MIN_SKELETON_FIELDS:
        return "skeletons"
    if _LABEL_LINE.fullmatch(first):
        return "labels"
    return "splits" if _SPLIT_HEADING.match(first) else UNKNOWN


def read_splits(path: Path, part: str) -> dict[str, dict[str, str]]:
    """Read a split file, or those in a folder or archive: protocol -> ``video_key`` -> "train" or "val".

    If the names of some contain "v2", only those of ``part``, "1" or "2", are read.
    """
    left_out: list[Issue] = []
    splits: dict[str, dict[str, str]] = {}
    named = []
    for file in find_raw_files([path], SUFFIX, "--split_path", left_out):
        protocols = [name for word, name in PROTOCOL_WORDS.items() if word in file.name.lower()]
        named += [(protocols[0], file)] if len(protocols) == 1 else []
    of_part = [item for item in named if ("v2" in item[1].name.lower()) == (part == "2")]
    for protocol, file in of_part or named:
        if protocol in splits:
            raise UserError(f"{path} has several split files of {protocol} for part {part}; give one of them")
        splits[protocol] = parse_split(file)
    if not splits:
        names = "its name must contain 'subject' or 'view', as in cross-subject.txt"
        raise UserError(f"no split file in {path}: {names}{first_reason(left_out)}")
    return splits


def parse_split(file: RawFile) -> dict[str, str]:
    """Parse a split file: ``video_key`` -> "train" or "val".

    Raises ``UserError`` if it does not have four lines, or if a video is in both splits.
    """
    with parse_errors(f"the split file {file.display_name} cannot be used"):
        text = file.read().decode("utf-8-sig", "replace")
        _, training, _, test = (line for line in text.splitlines() if line.strip(" \t,"))
        names = (re.split(r"[,;\s]+", line) for line in (training, test))
        train, val = ({video_key(name) for name in line if name.strip("\"'")} for line in names)
        if train & val:
            raise ValueError(f"{min(train & val)} is both a training and a test video")
    return {**dict.fromkeys(train, "train"), **dict.fromkeys(val, "val")}


def parse_labels(data: bytes, num_classes: int) -> tuple[list[Action], list[BadFile]]:
    """Parse the content of a label file: its actions in their order, and the errors of the other lines."""
    actions: list[Action] = []
    errors: list[BadFile] = []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        if not _LABEL_LINE.fullmatch(line):
            errors.append(BadFile("the line is not class,start,end,confidence", number))
            continue
        label, start, end = map(int, line.split(",")[:3])
        if 1 <= label <= num_classes:
            actions.append(Action(label - 1, start, end, number))
        else:
            errors.append(BadFile(f"class {label} is not one of the {num_classes}", number))
    return actions, errors


def check_action(action: Action, num_frames: int) -> None:
    """Raise ``BadFile`` unless an action has at least two frames of a video of this length."""
    start, end = action.start, action.end
    if not 0 <= start < end:
        raise BadFile(f"frames {start} to {end} are not a valid range", action.line)
    if min(end, num_frames) - start < 2:
        length = "shorter than 2 frames" if start < num_frames else "beyond the end of the video"
        raise BadFile(f"frames {start} to {end} are {length}", action.line)


def action_warnings(action: Action, earlier: list[Action], num_frames: int, max_frames: int) -> list[str]:
    """Return warnings about an action that is used nevertheless; ``earlier`` are the actions above it."""
    warnings = []
    length = min(action.end, num_frames) - action.start
    if action.end > num_frames:
        warnings.append(f"ends at frame {action.end}, cut at the end of the video, {num_frames}")
    if length > max_frames:
        warnings.append(f"{length} frames, cut to the first {max_frames}")
    if any(other.start > action.start for other in earlier):
        warnings.append("out of order: an action above it begins later")
    overlapping = [other for other in earlier if other.start < action.end and action.start < other.end]
    if overlapping:
        warnings.append(f"overlaps the action on line {overlapping[0].line}")
    return warnings
