"""Turn NTU RGB+D as prepared with the code of CTR-GCN (Chen et al., 2021) into a store.

    python data_gen/ctrgcn_gendata.py --data_path NTU60_CS.npz              # -> data/ntu60
    python data_gen/ctrgcn_gendata.py --data_path NTU60_CS.npz NTU60_CV.npz # both protocols

A file is one protocol: x_train (N, 300, 150) in the order person, joint, coordinate, y_train (N, classes)
one-hot, x_test and y_test. Its clips have no names, so they are numbered, as in cross_subject-train-000017.
Files of the same dataset contain the same clips in different orders. If several are given, their clips are
matched by coordinates and label, and it is an error if one has no counterpart.

The arrays are read clip by clip, compressed or not. Clips are normalized like those of NTU RGB+D;
docs/data.md describes how CTR-GCN selects bodies. The store (dataset/store_format.py) is written atomically.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from data_gen.command_line import DATA_FOLDER, add_flag, add_path_flag, add_store_flags, provenance
from data_gen.own_clips import frames_of_array
from data_gen.sources import BadFile, Issue
from data_gen.store_writer import (
    Clip,
    FileResult,
    StoreWriter,
    check_target,
    compare_with_published,
    fill_store,
    report,
)
from facts.datasets import DATASETS, MAX_FRAMES, NUM_COORDINATES, NUM_PEOPLE
from facts.skeletons import KINECT_V2
from options.parser import Parser
from utils.errors import UserError, first_line, run_script

PARTS = {"train": "train", "test": "val"}  # in the names of the arrays -> split
PROTOCOLS = {"cs": "cross_subject", "csub": "cross_subject", "cv": "cross_view", "cset": "cross_setup"}
PERSON_SHAPE = (KINECT_V2.num_joints, NUM_COORDINATES)
FRAME_SIZE = NUM_PEOPLE * KINECT_V2.num_joints * NUM_COORDINATES
CLIPS_PER_TASK = 16
_FILE_NAME = re.compile(r"ntu(60|120)[_-]?(csub|cset|cs|cv)(?![a-z])", re.IGNORECASE)
_NPY_START = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    rb"{'descr': '((?:[<>][iuf][248])|\|[biu]1)', 'fortran_order': False, "
    rb"'shape': \((\d{1,9}, ?[\d, ]*)\), }\s*"
)
_READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class Row:
    """One clip of a file: ``frames`` (T, 150) without the padding, ``one_hot`` (classes,)."""

    name: str
    frames: np.ndarray
    one_hot: np.ndarray
    splits: Mapping[str, str]


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_path_flag(
        parser,
        "data_path",
        nargs="+",
        required=True,
        help="NTU60_CS.npz, NTU60_CV.npz, NTU120_CSub.npz or NTU120_CSet.npz",
    )
    known = [name for name in DATASETS if name.startswith("ntu")]
    add_flag(parser, "dataset", choices=known, help="default: from the file names")
    add_flag(
        parser,
        "protocol",
        nargs="+",
        choices=sorted(set(PROTOCOLS.values())),
        help="the protocol of each file (default: from the file names)",
    )
    add_flag(
        parser, "dry_run", action="store_true", help="read the sizes only; print found and published counts"
    )
    add_store_flags(parser)
    args = parser.parse_args(arguments)
    matches = [_FILE_NAME.search(path.name) for path in args.data_path]
    if None in matches and not (args.dataset and args.protocol):
        path = args.data_path[matches.index(None)]
        parser.error(f"{path.name} is not named like NTU60_CS.npz; give --dataset and --protocol")
    datasets = {args.dataset or f"ntu{match[1]}" for match in matches}
    args.protocol = args.protocol or [PROTOCOLS[match[2].lower()] for match in matches]
    if len(datasets) > 1:
        parser.error(f"--data_path: files of {' and '.join(sorted(datasets))} make separate stores")
    if len(args.protocol) != len(args.data_path) or len(set(args.protocol)) < len(args.protocol):
        parser.error(
            f"protocols {', '.join(args.protocol)} of {len(args.data_path)} files: each file must be another "
            "protocol"
        )
    args.dataset = datasets.pop()
    for protocol in args.protocol:
        if protocol not in DATASETS[args.dataset].protocols:
            parser.error(f"{args.dataset} does not have --protocol {protocol}")
    args.out_folder = args.out_folder or DATA_FOLDER / args.dataset
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    start = time.perf_counter()
    if not args.dry_run:
        check_target(args.out_folder, args.overwrite)
    num_classes = DATASETS[args.dataset].num_classes
    files = [NpzFile(path, protocol, num_classes) for path, protocol in zip(args.data_path, args.protocol)]
    if args.dry_run:
        print("\n".join(compare_with_published(args.dataset, {file.protocol: file.counts for file in files})))
        return 0
    origin = provenance("data_gen/ctrgcn_gendata.py", args, ("dataset", "data_path", "protocol"))
    store = StoreWriter(args.out_folder, args.dataset, num_classes, args.protocol, origin, args.overwrite)
    rows = MatchedRows(files[0], files[1:])
    fill_store(store, read_clip, rows, args.workers, args.on_error, CLIPS_PER_TASK, "clip")
    return report(store, time.perf_counter() - start)


class NpzFile:
    """One file: the clips of one protocol.

    ``counts`` is the number of clips per split.

    Raises:
        UserError: the file cannot be read, or an array is missing or has another shape.
    """

    def __init__(self, path: Path, protocol: str, num_classes: int) -> None:
        self.path, self.protocol = path, protocol
        self.counts: dict[str, int] = {}
        with self._open() as archive:
            for part, split in PARTS.items():
                x, y = ArrayRows(archive, f"x_{part}"), ArrayRows(archive, f"y_{part}")
                for rows, shape in ((x, (MAX_FRAMES, FRAME_SIZE)), (y, (num_classes,))):
                    if rows.shape[1:] != shape:
                        expected = ", ".join(map(str, shape))
                        raise ValueError(f"{rows.name} is {rows.shape} instead of (N, {expected})")
                if len(x) != len(y):
                    raise ValueError(f"{len(x)} clips in {x.name}, but {len(y)} labels in {y.name}")
                self.counts[split] = len(x)

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Row]:
        with self._open() as archive:
            for part, split in PARTS.items():
                pairs = zip(ArrayRows(archive, f"x_{part}"), ArrayRows(archive, f"y_{part}"), strict=True)
                for number, (frames, one_hot) in enumerate(pairs):
                    tracked = np.flatnonzero((frames != 0).any(axis=1))
                    length = tracked[-1] + 1 if len(tracked) else 0
                    name = f"{self.protocol}-{split}-{number:06d}"
                    with np.errstate(over="ignore"):  # read_clip rejects what is not finite
                        frames = frames[:length].astype(np.float32)
                    yield Row(name, frames, one_hot, {self.protocol: split})

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except OSError as error:
            reason = error.strerror or first_line(error)
            raise UserError(f"{self.path} cannot be read ({reason}); set --data_path") from error
        except _READ_ERRORS as error:
            raise UserError(f"{self.path} cannot be used: {first_line(error)}") from error


class ArrayRows:
    """The rows of an array in an .npz archive, read one after the other.

    Raises:
        KeyError, ValueError: the array is missing, or is not as ``numpy.savez`` writes numbers in C order.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.name = name
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is compressed in another way than numpy does")
        self._file = archive.open(member)
        # Not numpy's parser, which evaluates the header as Python and fails in many ways if it is damaged.
        start = self._file.read(len(_NPY_START) + 2)
        header = self._file.read(int.from_bytes(start[-2:], "little"))
        match = _NPY_HEADER.fullmatch(header)
        if not start.startswith(_NPY_START) or match is None:
            raise ValueError(f"{name} is not an array of numbers in C order")
        self._dtype = np.dtype(match[1].decode())
        self.shape = tuple(int(size) for size in match[2].split(b",") if size.strip())

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        count = int(np.prod(self.shape[1:]))
        for _ in range(len(self)):
            data = self._file.read(count * self._dtype.itemsize)
            if len(data) < count * self._dtype.itemsize:
                raise ValueError(f"{self.name} is truncated")
            yield np.frombuffer(data, self._dtype, count).reshape(self.shape[1:])
        if self._file.read(1):  # also verifies the checksum
            raise ValueError(f"{self.name} is longer than its header says")


class MatchedRows:
    """The clips of one file, with their splits in the protocols of other files as well.

    Iteration raises ``UserError`` if the files do not contain the same clips.
    """

    def __init__(self, file: NpzFile, others: Sequence[NpzFile]) -> None:
        self.file, self.others = file, others

    def __len__(self) -> int:
        return len(self.file)

    def __iter__(self) -> Iterator[Row]:
        tables = {other.protocol: splits_by_content(other) for other in self.others}
        for row in self.file:
            splits = dict(row.splits)
            for other in self.others:
                found = tables[other.protocol].get(digest(row), []) if len(row.frames) else []
                if len(row.frames) and len(set(found)) != 1:
                    reason = "is in both of its splits" if found else "is not in it"
                    raise UserError(
                        f"{self.file.path.name} and {other.path.name} do not match: {row.name} {reason}; "
                        "prepare each file by itself, with another --out_folder"
                    )
                if found:
                    splits[other.protocol] = found.pop()
            yield Row(row.name, row.frames, row.one_hot, splits)
        for other in self.others:
            absent = sum(map(len, tables[other.protocol].values()))
            if absent:
                raise UserError(
                    f"{self.file.path.name} and {other.path.name} do not match: {absent:,} clips are only in "
                    "the latter; prepare each file by itself, with another --out_folder"
                )


def splits_by_content(file: NpzFile) -> dict[bytes, list[str]]:
    """Return the splits of the clips with each content; clips without a body are skipped."""
    splits: dict[bytes, list[str]] = {}
    for row in file:
        if len(row.frames):
            splits.setdefault(digest(row), []).extend(row.splits.values())
    return splits


def digest(row: Row) -> bytes:
    """Return a hash of a clip's coordinates and label."""
    content = blake2b(row.frames.tobytes(), digest_size=16)
    content.update(row.one_hot.astype(np.float32).tobytes())
    return content.digest()


def read_clip(row: Row) -> FileResult:
    """Normalize one clip, or return the reason why it is left out."""
    try:
        label = parse_label(row.one_hot)
        bodies = row.frames.reshape(-1, NUM_PEOPLE, *PERSON_SHAPE)
        if not len(bodies):
            raise BadFile("no body in any frame")
        frames = frames_of_array(bodies.transpose(0, 2, 3, 1))
    except BadFile as error:
        return FileResult(left_out=[Issue.of(error, row.name)])
    return FileResult([Clip(row.name, label, frames, row.splits)])


def parse_label(one_hot: np.ndarray) -> int:
    """Return the position of the 1. Raises ``BadFile`` if the other values are not 0."""
    ones = np.flatnonzero(one_hot)
    if len(ones) != 1 or one_hot[ones[0]] != 1:
        raise BadFile("the label is not one-hot")
    return int(ones[0])


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
