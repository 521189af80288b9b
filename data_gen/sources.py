"""Find and read raw input files, in folders at any depth or inside zip archives.

This is the only module that lists input folders and opens archives. Archives are read in place, without
unpacking. Folders that are stores are skipped, so raw data and the stores made from it can share a folder.

An input file that cannot be used raises ``BadFile``; the preparation records it as an ``Issue`` and
continues.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from dataset.store_format import INFO_FILE
from options.errors import UserError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: magic, lengths of name and extra field
_ENCRYPTED = 1


class BadFile(Exception):
    """An input file, or one line of it, that cannot become a clip."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason, line)  # both as arguments, so that the exception can be pickled
        self.reason = reason
        self.line = line

    def issue(self, file: str, failed_clips: int = 1) -> Issue:
        """Return the entry of ``store.json`` for this error in ``file``."""
        return Issue(file, self.line, self.reason, failed_clips)


@dataclass
class Issue:
    """An entry of ``left_out`` or ``notes`` in ``store.json``: an input file, a line of it, and the reason.

    ``failed_clips`` is the number of clips that the store lacks because of bad input; 0 for files that are
    left out on purpose.
    """

    file: str
    line: int | None
    reason: str
    failed_clips: int = 1

    def __str__(self) -> str:
        return f"{self.file}{f', line {self.line}' if self.line else ''}: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        return {"file": self.file, "line": self.line, "reason": self.reason}


@dataclass(frozen=True, order=True)
class RawFile:
    """One raw file. ``name`` is its file name without suffix, ``display_name`` is its name in reports."""

    name: str
    display_name: str
    path: str
    member: zipfile.ZipInfo | None = field(default=None, compare=False)  # of the archive ``path``

    def read(self) -> bytes:
        """Return the content of the file. Raises ``BadFile`` if it cannot be read."""
        try:
            with open(self.path, "rb") as file:
                return file.read() if self.member is None else _read_member(file, self.member)
        except Exception as error:  # each compression method raises errors of its own
            # "strerror" does not contain the path on this machine
            raise BadFile(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _read_member(archive: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """Read one member without the table of contents of the archive.

    Loading the table would take each worker process half a second and 60 MB per archive of NTU-120.
    """
    if member.flag_bits & _ENCRYPTED:
        raise zipfile.BadZipFile("it is encrypted")
    archive.seek(member.header_offset)
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(archive.read(_LOCAL_HEADER.size))
    if magic != b"PK\3\4":
        raise zipfile.BadZipFile("the archive is damaged here")
    archive.seek(name_length + extra_length, os.SEEK_CUR)
    with zipfile.ZipExtFile(archive, "r", member) as content:
        return content.read()  # also verifies the checksum


def find_files(roots: Sequence[str | Path], suffix: str, flag: str = "--data_path") -> list[RawFile]:
    """Return all files with this suffix under the roots, sorted by name, then by location.

    Args:
        roots: folders, zip archives or files.
        suffix: the end of the file names, for example ``.skeleton``.
        flag: the flag that sets the roots, for error messages.

    Raises:
        UserError: a root does not exist, or an archive cannot be opened.
    """
    found: list[RawFile] = []
    visited: set[tuple[int, int]] = set()  # a root inside another root is read once
    for root in map(Path, roots):
        if not root.exists():
            raise UserError(
                f"{root} does not exist; give the folder or zip archive of the raw data with {flag}"
            )
        for path in iterate_files(root, visited):
            display_name = root.name if path == root else path.relative_to(root).as_posix()
            if path.name.endswith(suffix):
                found.append(RawFile(path.name.removesuffix(suffix), display_name, str(path)))
            elif path.suffix.lower() == ".zip":
                found += _find_members(path, display_name, suffix)
    return sorted(found)


def iterate_files(root: Path, visited: set[tuple[int, int]] | None = None) -> Iterator[Path]:
    """Yield every file under ``root``, or ``root`` itself if it is a file.

    Links are followed. Hidden files and folders, stores, and everything in ``visited`` are skipped;
    ``visited`` contains pairs of device and inode, and new ones are added to it.
    """
    visited = set() if visited is None else visited
    if root.is_file():
        if _is_new(root, visited):
            yield root
        return
    for folder, subfolders, files in os.walk(root, followlinks=True):
        if INFO_FILE in files or not _is_new(folder, visited):
            subfolders.clear()
            continue
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


def _find_members(archive: Path, display_name: str, suffix: str) -> list[RawFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{archive} cannot be opened as a zip archive ({error}); download it again or move it out of the "
            "data folder"
        ) from error
    found = []
    for member in members:
        file_name = PurePosixPath(member.filename).name
        if file_name.endswith(suffix) and not file_name.startswith("."):
            name = file_name.removesuffix(suffix)
            found.append(RawFile(name, f"{display_name}/{member.filename}", str(archive), member))
    return found


def find_arrays(path: Path) -> dict[str, RawFile]:
    """Return the arrays of an ``.npz`` file, or the ``.npy`` files of a folder, by name.

    Raises ``UserError`` if ``path`` is neither.
    """
    if path.is_dir():
        return {
            file.stem: RawFile(file.stem, f"{path.name}/{file.stem}", str(file))
            for file in path.glob("*.npy")
        }
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is neither a folder nor a readable .npz file; give one of them with --data_path"
        ) from error
    return {name: RawFile(name, f"{path.name}/{name}", str(path), member) for name, member in members.items()}
