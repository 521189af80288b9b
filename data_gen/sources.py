"""Raw files where the user has them: in folders, at any depth, or inside zip archives.

An archive is read in place. Folders that are stores already are passed over, so that the raw data
and the stores made from it can lie side by side.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Iterator, Sequence

from data_gen.errors import BadFile
from dataset.store_format import INFO_FILE
from options.errors import UserError


@dataclass(frozen=True, order=True)
class RawFile:
    """One raw file. ``name`` is its file name without suffix; ``shown`` is how reports call it."""

    name: str
    shown: str
    path: str
    member: str | None = None  # inside the archive ``path``

    def read(self) -> bytes:
        """The whole content. Raises BadFile where it cannot be read."""
        try:
            if self.member is None:
                return Path(self.path).read_bytes()
            return _open_archive(self.path).read(self.member)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            # zipfile raises RuntimeError for an encrypted member
            raise BadFile(f"cannot be read: {error}") from error
        except Exception as error:  # zlib.error and lzma.LZMAError, without importing either
            if type(error).__name__ not in ("error", "LZMAError"):
                raise
            raise BadFile(f"the archive is damaged here: {error}") from error


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
        names = _open_archive(str(archive)).namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{archive} cannot be opened as a zip archive ({error}); fetch it again "
                        "or move it out of the data folder") from error
    found = []
    for member in names:
        file_name = PurePosixPath(member).name
        if file_name.endswith(suffix) and not file_name.startswith("."):
            found.append(RawFile(file_name.removesuffix(suffix), f"{shown}/{member}", str(archive),
                                 member))
    return found


@lru_cache(maxsize=16)
def _open_archive(path: str) -> zipfile.ZipFile:
    """One open archive per process: reading its table of contents takes longer than a file."""
    return zipfile.ZipFile(path)
