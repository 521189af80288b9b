"""Find and read raw input files, in folders at any depth or in archives (``data_gen.archives``).

This is the only module that lists input folders. Folders that are stores are skipped, so raw data and the
stores made from it can share a folder. Files that are not read are counted by suffix.

An input file that cannot be used raises ``BadFile``; the preparation records it as an ``Issue`` and
continues.
"""

from __future__ import annotations

import io
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from data_gen.archives import Place, TarPlace, is_archive, list_members, read_tar_members, read_zip_member
from dataset.store_format import INFO_FILE
from utils.errors import BadFile, UserError, parse_errors

TEXT_SUFFIX = ".txt"  # some programs append it to the names of text files
MAX_SHOWN = 10  # suffixes or names in a message
SYSTEM_FILES = ("._", ".DS_Store")  # beginnings of names of files that macOS adds to archives and folders


@dataclass
class Issue:
    """An entry of ``left_out`` or ``notes`` in ``store.json``: an input file, a line of it, and the reason.

    ``failed_clips`` is the number of clips that the store lacks because of bad input: 0 for files that are
    left out on purpose, 1 for folders and archives (``is_container``), which may contain any number.
    """

    file: str
    line: int | None
    reason: str
    failed_clips: int = 1
    is_container: bool = False

    @classmethod
    def of(cls, error: BadFile, file: str, failed_clips: int = 1) -> Issue:
        """Return the entry for an error in ``file``."""
        return cls(file, error.line, error.reason, failed_clips)

    def __str__(self) -> str:
        return f"{printable(self.file)}{f', line {self.line}' if self.line else ''}: {printable(self.reason)}"


def printable(text: str) -> str:
    """Return ``text`` in one line: names of files can contain control characters and undecodable bytes."""
    parts = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return "".join(parts)


def first_reason(issues: Sequence[object]) -> str:
    """Return the first of ``issues`` as the end of an error message, or "" if there are none."""
    return f"; the first reason: {issues[0]}" if issues else ""


@dataclass(frozen=True, order=True)
class RawFile:
    """One raw file; ``load_contents`` fills in the ``content`` of those in tar archives."""

    name: str  # of the file, without folder and suffix
    display_name: str  # in reports
    path: str  # of the file or of the archive around it
    place: Place | None = field(default=None, compare=False)  # in the archive
    content: bytes | BadFile | None = field(default=None, compare=False, repr=False)
    suffix: str = field(default="", compare=False)  # the one of the suffixes searched for
    full_name: str = field(default="", compare=False)  # the path below --data_path, without suffix

    @property
    def is_streamed(self) -> bool:
        """Whether the file is in a tar archive, which can only be read from its beginning."""
        return isinstance(self.place, TarPlace)

    def read(self, size: int = -1) -> bytes:
        """Return the content of the file, or its first ``size`` bytes. Raises ``BadFile`` on failure."""
        content = self.content
        if content is None and isinstance(self.place, TarPlace):
            content = next(read_tar_members(self.path, [self.place]))
        elif content is None and self.place is not None:
            content = read_zip_member(self.path, self.place, size)
        elif content is None:
            with parse_errors("cannot be read", BadFile), open(self.path, "rb") as file:
                content = file.read(size)
        if isinstance(content, BadFile):
            raise content
        if content and not content.strip(b"\0"):
            raise BadFile(f"the file consists of {len(content):,} NUL bytes, as after an interrupted copy")
        return content

    def read_array(self) -> np.ndarray:
        """Return the array in a ``.npy`` file, read-only. Raises ``BadFile`` if it cannot be read."""
        return parse_array(self.read())


def parse_array(data: bytes) -> np.ndarray:
    """Return the array in the content of a ``.npy`` file, without a copy and read-only.

    Unlike ``np.load``, it allocates nothing, however large the array is according to its header. Raises
    ``BadFile`` if it is damaged or contains Python objects.
    """
    npy = np.lib.format
    with parse_errors("cannot be read as an array of numbers", BadFile):
        file = io.BytesIO(data)
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, is_fortran, dtype = readers[npy.read_magic(file)](file)
        values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
        return values.reshape(shape, order="F" if is_fortran else "C")


@dataclass
class Found:
    """What a scan of the input found: the files with the suffix, all other files, and what was not read."""

    files: list[RawFile] = field(default_factory=list)
    others: list[RawFile] = field(default_factory=list)
    problems: list[Issue] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)  # hidden files and links in archives

    def add(self, file: RawFile, full_name: str, suffixes: Sequence[str]) -> None:
        """Add a file; its path below the root, ``full_name``, determines where."""
        match = split_suffix(full_name, suffixes)
        stem, suffix = match or os.path.splitext(full_name)
        name = stem.rpartition("/")[2]
        file = replace(file, name=name, suffix=suffix.lower(), full_name=stem)
        (self.files if match else self.others).append(file)

    def left_out(self) -> list[Issue]:
        """Return the problems, and one issue that counts everything else that is not read."""
        kinds = self.skipped + Counter(file.suffix or "without suffix" for file in self.others)
        if not kinds:
            return self.problems
        ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{count:,} {kind}" for kind, count in ordered[:MAX_SHOWN]]
        shown += [f"{len(kinds) - MAX_SHOWN} more kinds"] if len(kinds) > MAX_SHOWN else []
        return [*self.problems, Issue("other files", None, f"not read: {', '.join(shown)}", failed_clips=0)]


def find_raw_files(
    roots: Sequence[str | Path],
    suffix: str | Sequence[str],
    flag: str = "--data_path",
    left_out: list[Issue] | None = None,
) -> list[RawFile]:
    """Return all files with a suffix (or one of several) under the roots, sorted by name, then by location.

    Upper and lower case of the suffix are the same, and another ``.txt`` may follow. ``left_out`` receives
    the issues of what cannot be read, and one that counts everything else. Raises ``UserError``, which names
    ``flag``, if a root, which can be a folder, an archive or a file, does not exist.
    """
    found = scan_input(roots, (suffix,) if isinstance(suffix, str) else suffix, flag)
    if left_out is not None:
        left_out += found.left_out()
    return found.files


def scan_input(roots: Sequence[str | Path], suffixes: Sequence[str], flag: str) -> Found:
    """Return everything under the roots; see ``find_raw_files``."""
    found = Found()
    visited: set[tuple[int, int]] = set()  # a root inside another root is read once
    for root in map(Path, roots):
        if not os.path.exists(root):
            raise UserError(f"{root} does not exist; give the folder or archive of the raw data with {flag}")
        for path in _walk(root, visited, found):
            display_name = root.name if path == root else path.relative_to(root).as_posix()
            if not os.path.isfile(path):
                found.problems.append(Issue(display_name, None, "is a broken link or not a regular file"))
            elif is_archive(path.name) and not split_suffix(path.name, suffixes):
                prefix = "" if path == root else f"{display_name}/"
                try:
                    for inner, place in list_members(path):
                        if place is None:
                            found.skipped["link"] += 1
                        elif not os.path.basename(inner).startswith(SYSTEM_FILES):
                            file = RawFile("", f"{display_name}/{inner}", str(path), place)
                            found.add(file, prefix + inner, suffixes)
                except BadFile as error:
                    found.problems.append(Issue(display_name, None, error.reason, is_container=True))
            else:
                found.add(RawFile("", display_name, str(path)), display_name, suffixes)
    found.files.sort()
    return found


def _walk(root: Path, visited: set[tuple[int, int]], found: Found) -> Iterator[Path]:
    """Yield every file under ``root``, or ``root`` itself if it is a file, links followed.

    Stores, hidden files, and folders in ``visited``, a set of pairs of device and inode, are skipped.
    """

    def report(error: OSError) -> None:
        name = os.path.relpath(error.filename, root.parent)
        reason = f"the folder cannot be read ({error.strerror})"
        found.problems.append(Issue(name, None, reason, is_container=True))

    def is_new(path: str | Path) -> bool:
        status, known = os.stat(path), len(visited)
        visited.add((status.st_dev, status.st_ino))
        return len(visited) > known

    if not root.is_dir():
        if is_new(root):
            yield root
        return
    for folder, subfolders, names in os.walk(root, onerror=report, followlinks=True):
        if not is_new(folder) or INFO_FILE in names:
            subfolders.clear()
            continue
        found.skipped["hidden"] += sum(
            name.startswith(".") and not name.startswith(SYSTEM_FILES) for name in names + subfolders
        )
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def split_suffix(name: str, suffixes: Sequence[str]) -> tuple[str, str] | None:
    """Return a name without its suffix, and the one of ``suffixes`` that it has; None if it has none.

    ``S001.SKELETON`` and ``S001.skeleton.txt`` have the suffix ``.skeleton``.
    """
    for suffix in suffixes:
        for end in (suffix + TEXT_SUFFIX, suffix):
            if name.lower().endswith(end):
                return name[: -len(end)], suffix
    return None


def load_contents(files: Sequence[RawFile]) -> Iterable[RawFile]:
    """Return the files in an order in which each tar archive is read only once.

    First those that can be read in any order, unchanged and in their order; then, archive by archive and in
    the order of the archive, the others with their content. One that cannot be read raises when it is read.
    """
    archives: dict[str, dict[TarPlace, RawFile]] = defaultdict(dict)
    ready = []
    for file in files:
        if isinstance(file.place, TarPlace) and file.content is None:
            archives[file.path][file.place] = file
        else:
            ready.append(file)

    def load(archive: str) -> Iterator[RawFile]:
        places = sorted(archives[archive])
        for place, content in zip(places, read_tar_members(archive, places)):
            yield replace(archives[archive][place], content=content)

    return chain(ready, *map(load, archives)) if archives else ready


def find_arrays(path: Path, left_out: list[Issue]) -> list[RawFile]:
    """Return the arrays of an ``.npz`` file, or the ``.npy`` files under a folder or in an archive.

    Everything else is added to ``left_out``. Raises ``UserError`` if there are no arrays.
    """
    files = find_raw_files([path], ".npy", "--data_path", left_out)
    if not files:
        advice = "give an .npz file or a folder with .npy files"
        raise UserError(f"no array in {path}; {advice}{first_reason(left_out)}")
    return [replace(file, display_name=f"{path.name}/{file.full_name}.npy") for file in files]


def resolve_names(wanted: Iterable[str], files: Sequence[RawFile]) -> dict[str, RawFile]:
    """Return the file that each name of a table means; names that no file has are left out.

    The name of a file is its path below ``--data_path`` without suffix, for example ``wave/00``. A name may
    also be the end of that path, ``00``, if only one file has it, and may have the file's suffix.

    Raises ``UserError`` if a name fits several files, or if two names mean the same file.
    """
    paths: dict[str, list[RawFile]] = defaultdict(list)
    ends: dict[str, list[RawFile]] = defaultdict(list)
    for file in files:
        paths[file.full_name].append(file)
        parts = file.full_name.split("/")
        for i in range(1, len(parts)):
            ends["/".join(parts[i:])].append(file)
    suffixes = sorted({file.suffix for file in files if file.suffix})
    found: dict[str, RawFile] = {}
    names: dict[tuple[str, str], str] = {}  # of the files that have been found
    for name in wanted:
        path = name.replace("\\", "/").removeprefix("./")
        spellings = [path, (split_suffix(path, suffixes) or (path,))[0]]
        matches = next((table[key] for table in (paths, ends) for key in spellings if key in table), [])
        if len(matches) > 1:
            shown = ", ".join(file.display_name for file in matches[:MAX_SHOWN])
            advice = "in the table, give the path of each below --data_path"
            raise UserError(f"the name {name} fits {len(matches)} files ({shown}); {advice}")
        for file in matches:
            other = names.setdefault((file.path, file.full_name), name)
            if other != name:
                raise UserError(f"{other} and {name} in the table are the same file, {file.display_name}")
            found[name] = file
    return found
