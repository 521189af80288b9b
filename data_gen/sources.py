"""Raw files where the user has them: in folders, at any depth, or inside zip archives.

An archive is read in place. Folders that are stores already are passed over, so that the raw data
and the stores made from it can lie side by side.
"""

from __future__ import annotations

import os
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Iterator, Sequence

from data_gen.errors import BadFile
from dataset.store_format import INFO_FILE
from options.errors import UserError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: magic, lengths of name and extra field
_ENCRYPTED = 1


@dataclass(frozen=True, order=True)
class RawFile:
    """One raw file. ``name`` is its file name without suffix; ``shown`` is how reports call it."""

    name: str
    shown: str
    path: str
    member: zipfile.ZipInfo | None = field(default=None, compare=False)  # in the archive ``path``

    def read(self) -> bytes:
        """The whole content. Raises BadFile where it cannot be read."""
        try:
            with open(self.path, "rb") as file:
                return file.read() if self.member is None else _read_member(file, self.member)
        except Exception as error:  # every way of decompressing has errors of its own
            # "strerror" leaves out the path on this machine
            raise BadFile(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _read_member(archive: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """Read one member without the archive's table of contents, which a worker process would have
    to load and keep: half a second and 60 MB for each archive of NTU-120."""
    if member.flag_bits & _ENCRYPTED:
        raise zipfile.BadZipFile("it is encrypted")
    archive.seek(member.header_offset)
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(archive.read(_LOCAL_HEADER.size))
    if magic != b"PK\3\4":
        raise zipfile.BadZipFile("the archive is damaged here")
    archive.seek(name_length + extra_length, os.SEEK_CUR)
    with zipfile.ZipExtFile(archive, "r", member) as content:
        return content.read()  # checks the sum of the bytes too


def find_files(roots: Sequence[str | Path], suffix: str, flag: str = "--data_path"
               ) -> list[RawFile]:
    """All files with this suffix below the roots, sorted by name, then by where they are.

    A root is a folder, a zip archive or a file. Raises UserError, naming the ``flag`` the roots
    came from, for one that does not exist, and for an archive that cannot be opened.
    """
    found: list[RawFile] = []
    visited: set[tuple[int, int]] = set()  # a root inside another is read once
    for root in map(Path, roots):
        if not root.exists():
            raise UserError(f"{root} does not exist; give the folder or zip archive of the raw "
                            f"data with {flag}")
        for path in walk(root, visited):
            shown = root.name if path == root else path.relative_to(root).as_posix()
            if path.name.endswith(suffix):
                found.append(RawFile(path.name.removesuffix(suffix), shown, str(path)))
            elif path.suffix.lower() == ".zip":
                found += _members(path, shown, suffix)
    return sorted(found)


def walk(root: Path, visited: set[tuple[int, int]] | None = None) -> Iterator[Path]:
    """Every file below ``root``, or ``root`` itself if it is a file.

    Links are followed; hidden files and folders, stores, and what is in ``visited`` (by device and
    inode; it is added to) are passed over.
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
    new = identity not in visited
    visited.add(identity)
    return new


def _members(archive: Path, shown: str, suffix: str) -> list[RawFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{archive} cannot be opened as a zip archive ({error}); fetch it again "
                        "or move it out of the data folder") from error
    found = []
    for member in members:
        file_name = PurePosixPath(member.filename).name
        if file_name.endswith(suffix) and not file_name.startswith("."):
            found.append(RawFile(file_name.removesuffix(suffix), f"{shown}/{member.filename}",
                                 str(archive), member))
    return found
