"""Labels and splits of clips that are files: from a table, from what the files say, or from their folders.

Without a table the first folder below --data_path is the class, after folders named train, val or test, which
are the split. Files in no folder have no label: the class is empty in ``clips.csv``, and all clips are in the
training split of the protocol "all".
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os.path import commonprefix

from data_gen import command_line as flags
from data_gen.own_clips import TableRow, class_names_of, read_table
from data_gen.sources import Issue, RawFile, resolve_names, split_suffix
from data_gen.store_writer import StoreWriter
from dataset.store_format import NO_LABEL, SPLIT_NAMES
from utils.errors import UserError

UNSPLIT, BY_FILE, BY_FOLDER, BY_SUBJECT = "all", "by_file", "split", "cross_subject"  # protocols
_SPLIT_FOLDER = re.compile(rf"(?:.*[_-])?({'|'.join(SPLIT_NAMES)})", re.IGNORECASE)


@dataclass
class LabeledFiles:
    """The clips to store, each with its file, and what the store says about them."""

    rows: list[TableRow]
    protocols: list[str] = field(default_factory=list)
    class_names: tuple[str, ...] = ()
    left_out: list[Issue] = field(default_factory=list)
    notes: list[Issue] = field(default_factory=list)

    @property
    def num_classes(self) -> int:
        """The largest label + 1; 0 without labels."""
        return max((row.label for row in self.rows), default=NO_LABEL) + 1

    def describe_to(self, store: StoreWriter) -> None:
        """Add the names of the classes, the issues and the warnings to a store."""
        store.class_names = self.class_names
        store.left_out += self.left_out
        store.notes += self.notes
        if min((row.label for row in self.rows), default=0) > 0 and not self.class_names:
            store.warnings.append(
                "no clip has label 0, but labels count from 0; if yours count from 1, subtract 1"
            )


def add_label_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--clips``, the table, and the flags that replace it."""
    text = "a table of names and labels and, per protocol, train or val (default: a folder is a class)"
    flags.add_path_flag(parser, "clips", help=text)
    text = "store the clips without labels, although they are in folders"
    flags.add_flag(parser, "unlabeled", action="store_true", help=text)
    text = (
        f"protocol {BY_SUBJECT}: clips with one of these words in their path, such as s03, are for validation"
    )
    flags.add_flag(parser, "val_subjects", nargs="+", metavar="WORD", help=text)
    text = f"protocol {BY_FILE}: a random fraction of the files of each class is for validation, such as 0.2"
    flags.add_flag(parser, "val_fraction", type=float, metavar="X", help=text)
    flags.add_number_flag(parser, "split_seed", int, 0, "random seed of --val-fraction")


def label_flags(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the names of the given flags of ``add_label_flags`` except ``--clips``, for ``store.json``."""
    return tuple(
        name for name in ("unlabeled", "val_subjects", "val_fraction", "split_seed") if getattr(args, name)
    )


def label_files(files: Sequence[RawFile], args: argparse.Namespace, names: Sequence[str]) -> LabeledFiles:
    """Return the clips in ``files`` with labels and splits; ``names`` are those of ``--class-names``.

    Raises:
        UserError: the table is invalid, a folder is not one of ``names``, or a split would be empty.
    """
    found = from_table(files, args) if args.clips else from_files(files, args.unlabeled, names)
    if args.clips and not found.num_classes:  # a table of splits
        rows = from_files([row.file for row in found.rows], args.unlabeled, names).rows
        found.rows = [
            replace(row, label=other.label, class_name=other.class_name)
            for row, other in zip(found.rows, rows)
        ]
    if args.unlabeled:
        found.rows = [replace(row, label=NO_LABEL, class_name="") for row in found.rows]
    for protocol, is_val in (
        (BY_SUBJECT, args.val_subjects and names_subject(found.rows, args.val_subjects)),
        (BY_FILE, args.val_fraction is not None and random_rows(found.rows, args)),
    ):
        if is_val:
            found.protocols.append(protocol)
            splits = ["val" if row.name in is_val else "train" for row in found.rows]
            if len({*splits}) < 2:
                raise UserError(f"all {len(splits)} clips are in the split '{splits[0]}' of {protocol}")
            found.rows = [
                replace(row, splits={**row.splits, protocol: split}) for row, split in zip(found.rows, splits)
            ]
    if not found.protocols:
        found.protocols.append(UNSPLIT)
        found.rows = [replace(row, splits={UNSPLIT: "train"}) for row in found.rows]
    if count := sum(row.label == NO_LABEL for row in found.rows):
        found.notes.append(
            Issue(args.data_path.name, None, f"{count} of {len(found.rows)} clips have no label")
        )
    found.class_names = tuple(names) or class_names_of(found.rows, args.num_classes or found.num_classes)
    return found


def from_table(files: Sequence[RawFile], args: argparse.Namespace) -> LabeledFiles:
    """Return the clips that a table lists; names and files without counterpart are left out."""
    has_split = bool(args.val_subjects) or args.val_fraction is not None
    table = read_table(args.clips, args.num_classes, needs_split=not has_split)
    file_of = resolve_names(table.rows, files)
    used = {file.display_name for file in file_of.values()}
    examples = ", ".join(file.full_name for file in files[:3])
    absent = {f"{args.data_path.name}/{name}" for name in table.rows.keys() - file_of.keys()}
    unlisted = {file.display_name for file in files} - used
    left_out = [Issue(name, None, f"no file of this name; there are {examples}") for name in sorted(absent)]
    left_out += [Issue(name, None, f"no valid row in {args.clips.name}") for name in sorted(unlisted)]
    suffixes = sorted({file.suffix for file in files if file.suffix})
    rows = [
        replace(table.rows[name], name=(split_suffix(name, suffixes) or [name])[0], file=file_of[name])
        for name in sorted(file_of)
    ]
    return LabeledFiles(rows, table.protocols, (), table.left_out + left_out, table.notes)


def from_files(files: Sequence[RawFile], unlabeled: bool, names: Sequence[str]) -> LabeledFiles:
    """Return all clips, with the labels and splits that their files or else their folders say."""
    counts = Counter(file.full_name for file in files)
    reason = "other files have the same name except for the suffix"
    left_out = [Issue(file.full_name, None, reason) for file in files if counts[file.full_name] > 1]
    files = [file for file in files if counts[file.full_name] == 1]
    folders = [file.full_name.split("/")[:-1] for file in files]
    shared = len(commonprefix(folders))
    folders = [parts[shared:] for parts in folders]
    words = [_SPLIT_FOLDER.fullmatch(parts[0]) if parts else None for parts in folders]
    splits = [dict(getattr(file, "splits", {})) for file in files]
    if files and all(words):
        splits = [{BY_FOLDER: SPLIT_NAMES[word[1].lower()]} for word in words if word]
        folders = [parts[1:] for parts in folders]
    classes = [getattr(file, "class_name", "") or "".join(parts[:1]) for file, parts in zip(files, folders)]
    if not unlabeled and any(classes) and not all(classes):
        file, other = files[classes.index("")], files[[*map(bool, classes)].index(True)]
        raise UserError(
            f"{file.full_name} is in no folder, whose name would be its class, unlike {other.full_name}: "
            "move it, or give a table with --clips, or --unlabeled"
        )
    order = {name: label for label, name in enumerate(names or sorted({*classes} - {""}))}
    if not unlabeled and any(classes) and (unknown := {*classes} - {*order}):
        raise UserError(
            f"the folder {min(unknown)} is not one of the names of --class-names: {', '.join(names)}"
        )
    rows = []
    for file, name, split in zip(files, classes, splits):
        label = getattr(file, "label", None)
        label = order.get(name, NO_LABEL) if label is None else label
        rows.append(TableRow(file.full_name, label, split, name, file))
    return LabeledFiles(rows, sorted({protocol for split in splits for protocol in split}), (), left_out)


def names_subject(rows: Sequence[TableRow], words: Sequence[str]) -> set[str]:
    """Return the names of the clips whose file has one of ``words`` in its path.

    Parts of a path are separated by anything but letters and digits; S001C002P003 has the parts S001, C002
    and P003. Raises ``UserError`` for a word that no path has.
    """
    found: dict[str, set[str]] = {word.lower(): set() for word in words}
    for row in rows:
        path = row.file.full_name if row.file else row.name
        for part in {*re.split(r"[\W_]+", path), *re.findall(r"[^\W\d_]+\d+", path)}:
            found.get(part.lower(), set()).add(row.name)
    if absent := [word for word, names in found.items() if not names]:
        examples = ", ".join(row.name for row in rows[:3])
        raise UserError(f"--val-subjects {absent[0]}: no path has this part; there are {examples}")
    return set().union(*found.values())


def random_rows(rows: Sequence[TableRow], args: argparse.Namespace) -> set[str]:
    """Return the names of the clips in a random fraction of the files of each class.

    It does not depend on the order of the files. At least one file of each class is chosen, and at least one
    is not. A file with several clips is not divided.
    """
    if not 0 < args.val_fraction < 1:
        raise UserError(f"--val-fraction {args.val_fraction:g} must be between 0 and 1")
    clips_of: dict[str, list[TableRow]] = defaultdict(list)
    for row in rows:
        parts = getattr(row.file, "parts", (row.file,))
        clips_of[parts[0].full_name].append(row)
    files_of: dict[int, list[str]] = defaultdict(list)
    for file, clips in clips_of.items():
        files_of[clips[0].label].append(file)
    chosen: set[str] = set()
    for files in files_of.values():
        files.sort(
            key=lambda file: hashlib.sha256(f"{args.split_seed}:{file}".encode(errors="replace")).digest()
        )
        count = min(max(math.floor(args.val_fraction * len(files) + 0.5), 1), len(files) - 1)
        chosen |= {row.name for file in files[:count] for row in clips_of[file]}
    return chosen
