"""Read the files inside archives: zip, tar, gzip, bzip2 and xz, also nested in each other.

Nothing is unpacked to disk except zip archives inside of other archives, which are copied to an anonymous
temporary file because their table of contents is at their end. The names of members never become paths. Depth
and sizes are bounded, so that a malicious or damaged archive can fill neither the memory nor the disk.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, NoReturn

from utils.errors import FULL_DISK

COMPRESSIONS: dict[str, Callable[[BinaryIO], IO[bytes]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
}
ALIASES = {".tgz": ".tar.gz", ".tbz": ".tar.bz2", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tlz": ".tar.lzma"}
ARCHIVES = (".zip", ".tar", *COMPRESSIONS)
UNSUPPORTED = {
    ".7z": "a 7-Zip archive",
    ".rar": "a RAR archive",
    ".zst": "compressed with Zstandard",
    ".tzst": "compressed with Zstandard",
    ".lz4": "compressed with LZ4",
    ".lz": "compressed with lzip",
    ".z": "compressed with compress",
    ".zipx": "a zipx archive",
    ".cab": "a cabinet archive",
    ".iso": "a disk image",
    ".dmg": "a disk image",
    **{f"{prefix}{i:0{digits}d}": "a part of a split archive" for prefix, digits in ((".z", 2), (".", 3))
       for i in range(100)},
    ".part": "an unfinished download",
    ".crdownload": "an unfinished download",
    ".download": "an unfinished download",
    ".aria2": "the state of an unfinished download",
}  # fmt: skip

MAX_DEPTH = 4  # archives inside of archives; a .tar.gz counts as two
MAX_FILE_BYTES = 1 << 30  # of one raw file in an archive
MAX_UNPACKED_BYTES = 1 << 38  # of everything that is decompressed to find the files of one archive
MAX_NESTED = 100_000  # archives inside of one archive

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: magic, lengths of name and extra field
_ENCRYPTED = 1
_TAR_MAGIC = slice(257, 262)
_CHUNK = 1 << 20


class ArchiveError(Exception):
    """An archive, or a file in one, cannot be read; the message is the reason."""


@dataclass(frozen=True)
class Member:
    """A file in an archive. ``path`` includes the archives around it, for example ``b.zip/a.txt``.

    ``open`` may be called until the next member is requested. ``info`` is set for the direct members of a zip
    archive, which ``read_zip_member`` can read in any order.
    """

    path: str
    open: Callable[[], IO[bytes]]
    info: zipfile.ZipInfo | None = None

    def read(self) -> bytes:
        """Return the content. Raises ``ArchiveError`` if it is damaged or too large."""
        with archive_errors(), self.open() as content:
            return read_limited(content)


@dataclass(frozen=True)
class Problem:
    """A part of an archive that could not be read: the archive inside it (or ""), and the reason."""

    path: str
    reason: str


@dataclass
class _Budget:
    """What may still be decompressed to find the files of an archive."""

    num_bytes: int = field(default_factory=lambda: MAX_UNPACKED_BYTES)
    num_archives: int = field(default_factory=lambda: MAX_NESTED)

    def spend(self, num_bytes: int) -> None:
        self.num_bytes -= num_bytes
        if self.num_bytes < 0:
            raise ArchiveError(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB")


class archive_errors:
    """Convert all errors in a ``with`` block, except those of the machine, to ``ArchiveError``.

    Every compression module raises errors of its own, and a damaged archive can raise almost any of them.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, (ArchiveError, MemoryError)):
            return
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return
        # "strerror" does not contain the path on this machine
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ArchiveError(" ".join(text.split())[:200]) from error


def archive_suffix(name: str) -> str | None:
    """Return the suffix of an archive that can be read, of ``ARCHIVES`` or ``ALIASES``, or None."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in ARCHIVES or suffix in ALIASES else None


def file_name(path: str) -> str:
    """Return the last part of the path of a member; Windows programs separate the parts by backslashes."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading. Raises ``ArchiveError`` for a FIFO or device, which could block forever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArchiveError("it is not a regular file")
    return open(descriptor, "rb")


def read_limited(content: IO[bytes], size: int = -1) -> bytes:
    """Return ``size`` bytes of a decompressed stream, by default all.

    Raises ``ArchiveError`` if it is too large.
    """
    data = content.read(MAX_FILE_BYTES + 1 if size < 0 else size)
    if len(data) > MAX_FILE_BYTES:
        raise ArchiveError(f"it is larger than {MAX_FILE_BYTES / (1 << 20):,.0f} MiB")
    return data


def walk_archive(path: str | Path) -> Iterator[Member | Problem]:
    """Yield the files of an archive, and of all archives inside it, in their order in the archive."""
    try:
        with archive_errors():
            file = open_regular(path)
    except ArchiveError as error:
        yield Problem("", f"cannot be read: {error}")
        return
    with file:
        yield from _walk(file, Path(path).name, "", 0, _Budget())


def _walk(file: IO[bytes], name: str, path: str, depth: int, budget: _Budget) -> Iterator[Member | Problem]:
    """Walk the archive ``file``; ``path`` is the path of the archive inside the outermost one, or ""."""
    suffix = archive_suffix(name)
    if suffix in ALIASES:
        name = name[: -len(suffix)] + ALIASES[suffix]
        suffix = archive_suffix(name)
    if depth >= MAX_DEPTH:
        yield Problem(path, f"is inside of {MAX_DEPTH} archives and is not opened")
        return
    members = {".zip": _zip_members, ".tar": _tar_members}.get(suffix, _single_member)
    count = 0
    try:
        with archive_errors():
            for member in members(file, name, path, budget):
                count += 1
                if isinstance(member, Problem) or archive_suffix(file_name(member.path)) is None:
                    yield member
                else:
                    yield from _walk_nested(member, depth + 1, budget)
    except ArchiveError as error:
        after = f"is damaged after the first {count:,} files ({error}); download it again"
        yield Problem(path, after if count else _open_failure(file, suffix, error))


def _walk_nested(member: Member, depth: int, budget: _Budget) -> Iterator[Member | Problem]:
    name = file_name(member.path)
    budget.num_archives -= 1
    if budget.num_archives < 0:
        raise ArchiveError(f"it contains more than {MAX_NESTED:,} archives")
    try:
        with archive_errors(), member.open() as content:
            if archive_suffix(name) != ".zip":
                yield from _walk(content, name, member.path, depth, budget)
                return
            with tempfile.TemporaryFile() as copy:
                while chunk := content.read(_CHUNK):
                    budget.spend(len(chunk))
                    copy.write(chunk)
                copy.seek(0)
                yield from _walk(copy, name, member.path, depth, budget)
    except ArchiveError as error:
        yield Problem(member.path, f"cannot be read: {error}")


def _join(archive: str, member: str) -> str:
    return f"{archive}/{member}" if archive else member


def _zip_members(file: IO[bytes], name: str, path: str, budget: _Budget) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir() and not info.filename.endswith("\\"):
                content = _zip_opener(archive, info)
                yield Member(_join(path, info.filename), content, None if path else info)


def _zip_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    def open_member() -> IO[bytes]:
        if info.flag_bits & _ENCRYPTED:
            raise ArchiveError("it is encrypted")
        return archive.open(info)

    return open_member


def read_zip_member(path: str, info: zipfile.ZipInfo, size: int = -1) -> bytes:
    """Read one member of a zip archive, or its beginning, without the table of contents of the archive.

    Loading the table would take each worker process half a second and 60 MB per archive of NTU-120.
    """
    with archive_errors(), open_regular(path) as archive:
        if info.flag_bits & _ENCRYPTED:
            raise ArchiveError("it is encrypted")
        archive.seek(info.header_offset)
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(archive.read(_LOCAL_HEADER.size))
        if magic != b"PK\3\4":
            raise ArchiveError("the archive is damaged here")
        archive.seek(name_length + extra_length, os.SEEK_CUR)
        with zipfile.ZipExtFile(archive, "r", info) as content:
            return read_limited(content, size)  # also verifies the checksum


class _StrictHeader(tarfile.TarInfo):
    """A header of a tar archive. ``tarfile`` takes a damaged one for the end of the archive; this raises."""

    @classmethod
    def frombuf(cls, buffer: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        """Parse a header block."""
        try:
            return super().frombuf(buffer, encoding, errors)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            if not buffer:
                raise ArchiveError("it ends without the end mark of a tar archive") from error
            raise ArchiveError(f"damaged inside ({error})") from error


def _tar_members(file: IO[bytes], name: str, path: str, budget: _Budget) -> Iterator[Member | Problem]:
    counted = _Counted(file, budget)
    with tarfile.open(fileobj=counted, mode="r|", tarinfo=_StrictHeader, errorlevel=2) as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # otherwise the memory grows with the number of members
            member_path = _join(path, info.name)
            if info.isfile():
                yield Member(member_path, lambda info=info: archive.extractfile(info))
            elif info.islnk() or info.issym():
                yield Member(member_path, lambda target=info.linkname: _raise_link(target))
            elif not info.isdir():
                yield Member(member_path, lambda: _raise("it is a device or FIFO"))
        # A hole of NUL bytes looks like the end. The checksum of a compressed archive is at its end, too.
        while rest := archive.fileobj.read(_CHUNK):
            if rest.strip(b"\0"):
                raise ArchiveError("there is data behind the end mark of the tar archive")


def _raise(reason: str) -> NoReturn:
    raise ArchiveError(reason)


def _raise_link(target: str) -> NoReturn:
    _raise(f"it is a link to {target}; links in archives are not followed")


def _single_member(file: IO[bytes], name: str, path: str, budget: _Budget) -> Iterator[Member | Problem]:
    """Yield the content of a compressed file; if it is a tar archive in spite of its name, its members."""
    stem, suffix = os.path.splitext(name)
    content = io.BufferedReader(COMPRESSIONS[suffix.lower()](file))
    if archive_suffix(stem) is None and content.peek(512)[_TAR_MAGIC] == b"ustar":
        stem += ".tar"
    if archive_suffix(stem) == ".tar":
        yield from _tar_members(content, stem, path, budget)
    else:
        folder, slash, _ = path.rpartition("/")
        yield Member(f"{folder}{slash}{stem}", lambda: content)


class _Counted(io.RawIOBase):
    """A stream whose bytes are counted against a budget."""

    def __init__(self, file: IO[bytes], budget: _Budget) -> None:
        self._file, self._budget = file, budget

    def read(self, size: int = -1) -> bytes:
        """Read and count."""
        data = self._file.read(size)
        self._budget.spend(len(data))
        return data


def open_failure(path: str | Path, suffix: str, error: Exception) -> str:
    """Return why an archive cannot be opened, also if it is something else in spite of its name."""
    try:
        with archive_errors(), open_regular(path) as file:
            return _open_failure(file, suffix, error)
    except ArchiveError as other:
        return f"cannot be read: {other}"


def _open_failure(file: IO[bytes], suffix: str, error: Exception) -> str:
    if file.seekable():
        file.seek(0)
        head = file.read(512)
        if not head:
            error = ArchiveError("the file is empty")
        elif not head.strip(b"\0"):
            error = ArchiveError("it begins with NUL bytes, as after an interrupted download or copy")
        elif head.lstrip()[:1] == b"<":
            error = ArchiveError("it is a web page, for example of a login")
    title = {".zip": "a zip archive", ".tar": "a tar archive"}.get(suffix, f"a {suffix} file")
    return f"cannot be opened as {title} ({error})"
