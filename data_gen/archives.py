"""List and read the files in zip and tar archives without unpacking them.

Archives inside of archives are not opened. The names of members never become paths.
"""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from utils.errors import BadFile, parse_errors

ZIPS = (".zip", ".npz")
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz")
_ENCRYPTED = 1
_NAME_LENGTHS = struct.Struct("<26xHH")  # of a member's name and extra field, in its header
_CHUNK = 1 << 20


class TarPlace(NamedTuple):
    """Where the content of a file is in an uncompressed tar archive, in bytes."""

    offset: int
    size: int


Place = zipfile.ZipInfo | TarPlace


def is_archive(name: str) -> bool:
    """Return whether a file name is that of an archive that can be read."""
    return name.lower().endswith((*ZIPS, *TARS))


def list_members(archive: Path) -> Iterator[tuple[str, Place | None]]:
    """Yield the path inside the archive and the place of each file; None for links and devices.

    Raises ``BadFile`` where the archive is damaged; the files before can be read.
    """
    members = _zip_members if archive.name.lower().endswith(ZIPS) else _tar_members
    with parse_errors("the archive is damaged", BadFile):
        for name, place in members(archive):
            yield name.replace("\\", "/").removeprefix("./"), place  # Windows programs write backslashes


def _zip_members(path: Path) -> Iterator[tuple[str, Place]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(("/", "\\")):
                yield info.filename, info


def _tar_members(path: Path) -> Iterator[tuple[str, Place | None]]:
    with tarfile.open(path) as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # otherwise the memory grows with the number of members
            if not info.isdir():
                yield info.name, TarPlace(info.offset_data, info.size) if info.isreg() else None
        # tarfile takes a damaged header for the end. Reading on also verifies the checksum of a .gz file.
        stream: IO[bytes] = archive.fileobj
        stream.seek(archive.offset)
        end = stream.read(tarfile.BLOCKSIZE)
        if not end or any(chunk.strip(b"\0") for chunk in (end, *iter(lambda: stream.read(_CHUNK), b""))):
            raise BadFile("the archive is damaged after the files that were found")


def read_zip_member(archive: str, info: zipfile.ZipInfo, size: int = -1) -> bytes:
    """Return the content of a member of a zip archive, or its first ``size`` bytes.

    The table of contents is not loaded: it would take each worker process half a second and 60 MB per
    archive of NTU-120. Raises ``BadFile`` if the member is damaged.
    """
    with parse_errors("cannot be read", BadFile), open(archive, "rb") as file:
        if info.flag_bits & _ENCRYPTED:
            raise BadFile("is encrypted")
        file.seek(info.header_offset)
        name_length, extra_length = _NAME_LENGTHS.unpack(file.read(_NAME_LENGTHS.size))
        file.seek(name_length + extra_length, os.SEEK_CUR)
        with zipfile.ZipExtFile(file, "r", info) as content:  # verifies the checksum
            return content.read(size)


def read_tar_members(archive: str, places: Iterable[TarPlace]) -> Iterator[bytes | BadFile]:
    """Yield the content at each place of a tar archive, or why it cannot be read.

    If the places are in ascending order, the archive is decompressed only once.
    """
    with parse_errors(f"{archive} cannot be read"), tarfile.open(archive) as opened:
        stream: IO[bytes] = opened.fileobj
        for place in places:
            content: bytes | BadFile
            try:
                with parse_errors("cannot be read", BadFile):
                    stream.seek(place.offset)
                    content = stream.read(place.size)
            except BadFile as error:
                content = error
            yield content
