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
from dataclasses import replace
from os.path import commonprefix

from data_gen import command_line as flags
from data_gen.own_clips import ClipTable, TableRow, class_names_of, read_table
from data_gen.sources import Issue, RawFile, resolve_names, split_suffix
from data_gen.store_writer import StoreWriter
from dataset.store_format import NO_LABEL, SPLIT_NAMES
from facts.datasets import DATASETS
from facts.skeletons import Skeleton
from utils.errors import UserError

LABEL_FLAGS = "unlabeled", "val_subjects", "val_fraction", "split_seed"  # beside --clips
UNSPLIT, BY_FILE, BY_FOLDER, BY_SUBJECT = "all", "by_file", "split", "cross_subject"  # protocols
_SPLIT_FOLDER = re.compile(rf"(?:.*[_-])?({'|'.join(SPLIT_NAMES)})", re.IGNORECASE)


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


def label_files(
    files: Sequence[RawFile], args: argparse.Namespace, names: Sequence[str], left_out: list[Issue]
) -> ClipTable:
    """Return the clips in ``files`` with labels and splits; ``names`` are those of ``--class-names``.

    ``left_out`` are the files that were left out before. Raises ``UserError`` if the table is invalid, a
    folder is not one of ``names``, or a split would be empty.
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
    is_val: dict[str, set[str]] = {}  # protocol -> names
    if args.val_subjects:
        is_val[BY_SUBJECT] = names_subject(found.rows, args.val_subjects)
    if args.val_fraction is not None:
        is_val[BY_FILE] = random_rows(found.rows, args)
    if not is_val and not found.protocols:
        is_val[UNSPLIT] = set()
    for protocol, names_of_val in is_val.items():
        splits = ["val" if row.name in names_of_val else "train" for row in found.rows]
        if names_of_val and len({*splits}) < 2:
            raise UserError(f"all {len(splits)} clips are in the split '{splits[0]}' of {protocol}")
        found.protocols.append(protocol)
        found.rows = [
            replace(row, splits={**row.splits, protocol: split}) for row, split in zip(found.rows, splits)
        ]
    if count := sum(row.label == NO_LABEL for row in found.rows):
        reason = f"{count} of {len(found.rows)} clips have no label"
        found.notes.append(Issue(args.data_path.name, None, reason))
    found.left_out = left_out + found.left_out
    found.class_names = tuple(names) or class_names_of(found.rows, args.num_classes or found.num_classes)
    return found


def open_store(
    found: ClipTable, script: str, args: argparse.Namespace, skeleton: Skeleton, names: Sequence[str]
) -> StoreWriter:
    """Return the store to write, with what is known before the clips are read.

    ``names`` are those of the flags of ``script`` that determine the content, beside the common ones.
    """
    given = [name for name in LABEL_FLAGS if getattr(args, name)]
    names = ("dataset", "data_path", "clips", "num_classes", *names, *given)
    num_classes = args.num_classes or found.num_classes
    if args.dataset in DATASETS:
        num_classes = DATASETS[args.dataset].num_classes
    origin, folder = flags.provenance(script, args, names), args.out_folder
    store = StoreWriter(folder, args.dataset, num_classes, found.protocols, origin, args.overwrite, skeleton)
    store.class_names = found.class_names
    store.left_out += found.left_out
    store.notes += found.notes
    if min((row.label for row in found.rows), default=0) > 0 and not found.class_names:
        store.warnings.append(
            "no clip has label 0, but labels count from 0; if yours count from 1, subtract 1"
        )
    return store


def from_table(files: Sequence[RawFile], args: argparse.Namespace) -> ClipTable:
    """Return the clips that a table lists; names and files without counterpart are left out."""
    table = read_table(args.clips, args.num_classes, not args.val_subjects and args.val_fraction is None)
    rows = {row.name: row for row in table.rows}
    file_of = resolve_names(rows, files)
    examples = ", ".join(file.full_name for file in files[:3])
    absent = {f"{args.data_path.name}/{name}" for name in rows.keys() - file_of.keys()}
    unlisted = {file.display_name for file in files} - {file.display_name for file in file_of.values()}
    reason = f"no file of this name; there are {examples}"
    table.left_out += [Issue(name, None, reason) for name in sorted(absent)]
    table.left_out += [Issue(name, None, f"no valid row in {args.clips.name}") for name in sorted(unlisted)]
    suffixes = sorted({file.suffix for file in files if file.suffix})
    table.rows = [
        replace(rows[name], name=(split_suffix(name, suffixes) or [name])[0], file=file_of[name])
        for name in sorted(file_of)
    ]
    return table


def from_files(files: Sequence[RawFile], unlabeled: bool, names: Sequence[str]) -> ClipTable:
    """Return all clips, with the labels and splits that their files or else their folders say."""
    counts = Counter(file.full_name for file in files)
    reason = "other files have the same name except for the suffix"
    left_out = [Issue(file.full_name, None, reason) for file in files if counts[file.full_name] > 1]
    files = [file for file in files if counts[file.full_name] == 1]
    folders = [file.full_name.split("/")[:-1] for file in files]
    shared = len(commonprefix(folders))
    folders = [parts[shared:] for parts in folders]
    words = [_SPLIT_FOLDER.fullmatch("".join(parts[:1])) for parts in folders]
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
    given = [getattr(file, "label", None) for file in files]
    labels = [order.get(name, NO_LABEL) if label is None else label for name, label in zip(classes, given)]
    rows = [TableRow(file.full_name, *row, file) for file, *row in zip(files, labels, splits, classes)]
    return ClipTable(rows, sorted({protocol for split in splits for protocol in split}), (), left_out)


def names_subject(rows: Sequence[TableRow], words: Sequence[str]) -> set[str]:
    """Return the names of the clips whose file has one of ``words`` in its path.

    Parts of a path are separated by anything but letters and digits; S001C002P003 has the parts S001, C002
    and P003. Raises ``UserError`` for a word that no path has.
    """
    found: dict[str, set[str]] = {word.lower(): set() for word in words}
    for row in rows:
        path = row.file.full_name
        for part in {*re.split(r"[\W_]+", path), *re.findall(r"[^\W\d_]+\d+", path)}:
            found.get(part.lower(), set()).add(row.name)
    if absent := [word for word, names in found.items() if not names]:
        examples = ", ".join(row.name for row in rows[:3])
        raise UserError(f"--val-subjects {absent[0]}: no path has this part; there are {examples}")
    return set().union(*found.values())


def random_rows(rows: Sequence[TableRow], args: argparse.Namespace) -> set[str]:
    """Return the names of the clips in a random fraction of the files of each class, whatever their order.

    At least one file of each class is chosen, and at least one is not. No file is divided. Raises
    ``UserError`` if no class has two files.
    """
    if not 0 < args.val_fraction < 1:
        raise UserError(f"--val-fraction {args.val_fraction:g} must be between 0 and 1")
    clips_of: dict[str, list[TableRow]] = defaultdict(list)
    for row in rows:
        clips_of[getattr(row.file, "parts", (row.file,))[0].full_name].append(row)
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
    if not chosen:
        raise UserError("--val-fraction: no class has two files, so no file can be for validation")
    return chosen
