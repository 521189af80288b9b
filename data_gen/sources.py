"""Find and read raw input files, in folders at any depth or inside archives (``data_gen.archives``).

This is the only module that lists input folders. Archives are read in place, without unpacking. Folders that
are stores are skipped, so raw data and the stores made from it can share a folder. Everything else that is
not read, such as a folder without permission or a file with another suffix, becomes an ``Issue``.

An input file that cannot be used raises ``BadFile``; the preparation records it as an ``Issue`` and
continues.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from data_gen.archives import (
    COMPRESSIONS,
    UNSUPPORTED,
    ArchiveError,
    Problem,
    archive_errors,
    archive_suffix,
    file_name,
    open_failure,
    open_regular,
    read_limited,
    read_zip_member,
    walk_archive,
)
from dataset.store_format import CLIPS_FILE, FRAMES_FILE, INFO_FILE
from utils.errors import BadFile, UserError

TEXT_SUFFIX = ".txt"  # some programs append it to the names of text files
HEAD_BYTES = 4096
TEMPORARY_FOLDERS = (".partial", ".replaced")  # ends of names of folders of data_gen.output_folder
SYSTEM_FILES = ("._", ".DS_Store")  # beginnings of names of files that macOS adds to archives and folders


@dataclass
class Issue:
    """An entry of ``left_out`` or ``notes`` in ``store.json``: an input file, a line of it, and the reason.

    ``failed_clips`` is the number of clips that the store lacks because of bad input; 0 for files that are
    left out on purpose. For folders and archives, which may contain any number of clips, it is 1 and
    ``is_container`` is true.
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

    def as_json(self) -> dict[str, Any]:
        return {"file": self.file, "line": self.line, "reason": self.reason}


def printable(text: str) -> str:
    """Return ``text`` in one line: names of files can contain control characters and undecodable bytes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def first_reason(issues: Sequence[object]) -> str:
    """Return the first of ``issues`` as the end of an error message, or "" if there are none."""
    return f"; the first reason: {issues[0]}" if issues else ""


@dataclass(frozen=True, order=True)
class RawFile:
    """One raw file. ``name`` is its file name without suffix, ``display_name`` is its name in reports.

    A file inside an archive that can only be read from its beginning has a ``position`` in the order of
    ``walk_archive``; ``load_contents`` reads such files together.
    """

    name: str
    display_name: str
    path: str  # of the file or of the archive around it
    member: zipfile.ZipInfo | None = field(default=None, compare=False)  # of the archive ``path``
    position: int | None = field(default=None, compare=False)
    content: bytes | BadFile | None = field(default=None, compare=False, repr=False)
    suffix: str = field(default="", compare=False)  # the one of the suffixes searched for

    def read(self) -> bytes:
        """Return the content of the file. Raises ``BadFile`` if it cannot be read."""
        data = self._load()
        if data and not data.strip(b"\0"):
            raise BadFile(
                f"the file consists of {len(data):,} NUL bytes, as after an interrupted download or copy; "
                "get it again",
                1,
            )
        return data

    def read_head(self) -> bytes:
        """Return the beginning of the file. Raises ``BadFile`` if it cannot be read."""
        return self._load(HEAD_BYTES)[:HEAD_BYTES]

    def _load(self, size: int = -1) -> bytes:
        """Return at least ``size`` bytes, if the file has that many, or all if it is negative."""
        file = next(iter(load_contents([self])))
        if isinstance(file.content, BadFile):
            raise file.content
        try:
            return self._read_in_place(size) if file.content is None else file.content
        except ArchiveError as error:
            raise BadFile(f"cannot be read: {error}") from error

    def _read_in_place(self, size: int) -> bytes:
        if self.member is not None:
            return read_zip_member(self.path, self.member, size)
        decompress = COMPRESSIONS.get(os.path.splitext(self.path)[1].lower())
        with archive_errors(), open_regular(self.path) as file:
            return read_limited(decompress(file), size) if decompress else file.read(size)


@dataclass
class Found:
    """What a search of the input found: the files with the suffix, all other files, and what was not read."""

    files: list[RawFile] = field(default_factory=list)
    others: list[RawFile] = field(default_factory=list)
    problems: list[Issue] = field(default_factory=list)

    def left_out(self, wanted: str) -> list[Issue]:
        """Return the problems, and the other files as issues; ``wanted`` is the kind of file searched for."""
        return self.problems + [
            Issue(file.display_name, None, f"is not a {wanted} file", failed_clips=0) for file in self.others
        ]


def find_files(
    roots: Sequence[str | Path],
    suffix: str | Sequence[str],
    flag: str = "--data_path",
    left_out: list[Issue] | None = None,
) -> list[RawFile]:
    """Return all files with a suffix under the roots, sorted by name, then by location.

    Args:
        roots: folders, archives or files.
        suffix: the end of the file names, for example ``.skeleton``, or several; upper and lower case are the
            same. A compressed file (``.skeleton.gz``) and one with another ``.txt`` count, too.
        flag: the flag that sets the roots, for error messages.
        left_out: receives an issue for everything else under the roots; None raises for what cannot be read.

    Raises:
        UserError: a root does not exist.
    """
    suffixes = (suffix,) if isinstance(suffix, str) else tuple(suffix)
    found = search(roots, suffixes, flag)
    if left_out is not None:
        left_out += found.left_out(" or ".join(suffixes))
    elif unread := [issue for issue in found.problems if issue.is_container]:
        raise UserError(f"{flag}: {unread[0]}")
    return found.files


def search(roots: Sequence[str | Path], suffixes: Sequence[str], flag: str) -> Found:
    """Return everything under the roots; see ``find_files``."""
    found = Found()
    visited: set[tuple[int, int]] = set()  # a root inside another root is read once
    for root in map(Path, roots):
        try:
            exists = root.exists()
        except OSError as error:
            raise UserError(f"{root} cannot be read ({error.strerror}); check {flag}") from error
        if not exists:
            raise UserError(
                f"{root} does not exist; give the folder or zip archive of the raw data with {flag}"
            )
        for path in iterate_files(root, visited, found.problems):
            display_name = root.name if path == root else path.relative_to(root).as_posix()
            _add_file(found, path, display_name, suffixes)
    found.files.sort()
    return found


def _add_file(found: Found, path: Path, display_name: str, suffixes: Sequence[str]) -> None:
    match = match_suffix(path.name, suffixes)
    if match is not None:
        found.files.append(RawFile(match[0], display_name, str(path), suffix=match[1]))
    elif archive_suffix(path.name) is not None:
        _add_members(found, path, display_name, suffixes)
    elif (what := UNSUPPORTED.get(path.suffix.lower())) is not None:
        found.problems.append(_unsupported(display_name, what))
    else:
        found.others.append(RawFile(path.stem, display_name, str(path), suffix=path.suffix.lower()))


def _add_members(found: Found, archive: Path, display_name: str, suffixes: Sequence[str]) -> None:
    position = -1
    for member in walk_archive(archive):
        member_name = f"{display_name}/{member.path}" if member.path else display_name
        if isinstance(member, Problem):
            found.problems.append(Issue(member_name, None, member.reason, is_container=True))
            continue
        position += 1
        name = file_name(member.path)
        stem, suffix = os.path.splitext(name)
        if name.startswith(SYSTEM_FILES):
            continue
        if (what := UNSUPPORTED.get(suffix.lower())) is not None:
            found.problems.append(_unsupported(member_name, what))
            continue
        match = match_suffix(name, suffixes)
        file = RawFile(
            match[0] if match else stem,
            member_name,
            str(archive),
            member.info,
            None if member.info else position,
            suffix=match[1] if match else suffix.lower(),
        )
        (found.others if match is None else found.files).append(file)


def _unsupported(display_name: str, what: str) -> Issue:
    reason = f"is {what}, which this program cannot read; unpack it, or pack its files as .zip or .tar.gz"
    return Issue(display_name, None, reason, is_container=True)


def match_suffix(name: str, suffixes: Sequence[str]) -> tuple[str, str] | None:
    """Return the stem of a file name and the one of ``suffixes`` that it has, or None.

    ``S001.SKELETON``, ``S001.skeleton.gz`` and ``S001.skeleton.txt`` have the suffix ``.skeleton``.
    """
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in COMPRESSIONS:
        name, (stem, suffix) = stem, os.path.splitext(stem)
    if suffix.lower() == TEXT_SUFFIX and (shorter := match_suffix(stem, suffixes)) is not None:
        return shorter
    for candidate in suffixes:
        if name.lower().endswith(candidate):
            return name[: -len(candidate)], candidate
    return None


def load_contents(files: Sequence[RawFile]) -> Iterable[RawFile]:
    """Return the files in an order in which each archive is read only once.

    First those that can be read in any order, unchanged and in their order; then, archive by archive and in
    the order of the archive, the others with their content. One that cannot be read raises when it is read.
    """
    waiting: dict[str, dict[int, RawFile]] = {}
    ready = []
    for file in files:
        if file.position is None or file.content is not None:
            ready.append(file)
        else:
            waiting.setdefault(file.path, {})[file.position] = file
    streams = [_load_from_archive(path, wanted) for path, wanted in waiting.items()]
    return chain(ready, *streams) if streams else ready


def _load_from_archive(path: str, wanted: dict[int, RawFile]) -> Iterator[RawFile]:
    position = -1
    reason = "the archive has changed"
    for member in walk_archive(path):
        if isinstance(member, Problem):
            reason = member.reason
            continue
        position += 1
        if position in wanted:
            file = wanted.pop(position)
            try:
                content = member.read() if file.display_name.endswith(member.path) else BadFile(reason)
            except ArchiveError as error:
                content = BadFile(f"cannot be read: {error}")
            yield replace(file, content=content)
            if not wanted:
                return
    for file in wanted.values():
        yield replace(file, content=BadFile(f"cannot be read: {reason}"))


def iterate_files(
    root: Path, visited: set[tuple[int, int]] | None = None, problems: list[Issue] | None = None
) -> Iterator[Path]:
    """Yield every file under ``root``, or ``root`` itself if it is a file.

    Links are followed. Stores and everything in ``visited`` are skipped; ``visited`` contains pairs of device
    and inode, and new ones are added to it. Folders without permission and hidden files and folders are
    skipped and added to ``problems``.
    """
    visited = set() if visited is None else visited
    problems = [] if problems is None else problems
    if not root.is_dir():
        if _is_new(root, visited):
            yield root
        return

    def display(path: str | Path) -> str:
        return Path(path).relative_to(root).as_posix() if Path(path) != root else root.name

    def report(error: OSError) -> None:
        reason = f"the folder cannot be read ({error.strerror})"
        problems.append(Issue(display(error.filename), None, reason, is_container=True))

    for folder, subfolders, files in os.walk(root, onerror=report, followlinks=True):
        subfolders.sort()
        if not _is_new(folder, visited):
            subfolders.clear()
            continue
        if INFO_FILE in files:
            unknown = sorted({*subfolders, *files} - {INFO_FILE, CLIPS_FILE, FRAMES_FILE})
            if unknown:
                reason = f"is a store and is not searched, although it contains {unknown[0]}"
                problems.append(Issue(display(folder), None, reason, failed_clips=0))
            subfolders.clear()
            continue
        hidden = [
            name for name in subfolders if name.startswith(".") and not name.endswith(TEMPORARY_FOLDERS)
        ]
        hidden += [
            name for name in files if name.startswith(".") and not name.startswith((*SYSTEM_FILES, ".git"))
        ]
        for name in hidden:
            reason = "is hidden (its name begins with a dot) and is not read"
            problems.append(Issue(display(Path(folder, name)), None, reason, failed_clips=0))
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield Path(folder, name)


def _is_new(path: str | Path, visited: set[tuple[int, int]]) -> bool:
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    is_new = identity not in visited
    visited.add(identity)
    return is_new


def find_arrays(path: Path, left_out: list[Issue]) -> dict[str, RawFile]:
    """Return the arrays of an ``.npz`` file, or the ``.npy`` files under a folder or in an archive, by name.

    Everything else is added to ``left_out``. Raises ``UserError`` if there are no arrays.
    """
    if path.is_dir() or archive_suffix(path.name):
        files = find_files([path], ".npy", "--data_path", left_out)
    else:
        try:
            with archive_errors(), zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except ArchiveError as error:
            reason = open_failure(path, ".zip", error)
            raise UserError(
                f"{path} is neither a folder nor a readable .npz file: it {reason}; give one of them with "
                "--data_path"
            ) from error
        files = [
            RawFile(member.filename.removesuffix(".npy"), member.filename, str(path), member)
            for member in members
        ]
    if not files:
        raise UserError(
            f"no array in {path}; give an .npz file or a folder with .npy files{first_reason(left_out)}"
        )
    arrays: dict[str, RawFile] = {}
    for file in files:
        used = arrays.setdefault(file.name, replace(file, display_name=f"{path.name}/{file.display_name}"))
        if used.path != file.path or used.member is not file.member or used.position != file.position:
            reason = f"the same name as {used.display_name}, which is used"
            left_out.append(Issue(f"{path.name}/{file.display_name}", None, reason, failed_clips=0))
    return arrays
