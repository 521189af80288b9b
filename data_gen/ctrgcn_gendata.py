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
import math
import re
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen import command_line as flags
from data_gen.own_clips import prepare_clip
from data_gen.store_writer import Clip, FileResult, StoreWriter, check_target, prepare, preview
from facts.datasets import DATASETS, MAX_FRAMES, NUM_COORDINATES, NUM_PEOPLE
from facts.skeletons import KINECT_V2
from options.parser import Parser
from utils.errors import BadFile, UserError, parse_errors, run_script

PARTS = {"train": "train", "test": "val"}  # in the names of the arrays -> split
PROTOCOLS = {"cs": "cross_subject", "csub": "cross_subject", "cv": "cross_view", "cset": "cross_setup"}
PERSON_SHAPE = (KINECT_V2.num_joints, NUM_COORDINATES)
_FILE_NAME = re.compile(r"ntu(60|120)[_-]?(csub|cset|cs|cv)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One clip of a file: ``frames`` (T, 150) without the padding, ``one_hot`` (classes,)."""

    display_name: str
    frames: np.ndarray
    one_hot: np.ndarray
    splits: Mapping[str, str]

    def has_body(self) -> bool:
        return bool(self.frames.any())

    def digest(self) -> bytes:
        """Return a hash of the coordinates and the label."""
        label = self.one_hot.astype(np.float32).tobytes()
        return blake2b(self.frames.tobytes() + label, digest_size=16).digest()


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    text = "NTU60_CS.npz, NTU60_CV.npz, NTU120_CSub.npz or NTU120_CSet.npz"
    flags.add_path_flag(parser, "data_path", nargs="+", required=True, help=text)
    flags.add_flag(parser, "dataset", choices=["ntu60", "ntu120"], help="default: from the file names")
    protocols = sorted(set(PROTOCOLS.values()))
    text = "the protocol of each file (default: from the file names)"
    flags.add_flag(parser, "protocol", nargs="+", choices=protocols, help=text)
    flags.add_dry_run_flag(parser)
    flags.add_store_flags(parser)
    args = parser.parse_args(arguments)
    matches = [_FILE_NAME.search(path.name) for path in args.data_path]
    if None in matches and not (args.dataset and args.protocol):
        path = args.data_path[matches.index(None)]
        parser.error(f"{path.name} is not named like NTU60_CS.npz; give --dataset and --protocol")
    datasets = {args.dataset or f"ntu{match[1]}" for match in matches}
    args.dataset, *others = sorted(datasets)
    args.protocol = args.protocol or [PROTOCOLS[match[2].lower()] for match in matches]
    protocols = DATASETS[args.dataset].protocols
    if others or not len(args.data_path) == len(args.protocol) == len({*args.protocol} & {*protocols}):
        parser.error(
            f"{', '.join(args.protocol)} of {', '.join(sorted(datasets))}: each file of --data_path must be "
            f"another protocol of one dataset ({args.dataset} has {', '.join(protocols)})"
        )
    args.out_folder = args.out_folder or flags.DATA_FOLDER / args.dataset
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    if not args.dry_run:
        check_target(args.out_folder, args.overwrite)
    num_classes = DATASETS[args.dataset].num_classes
    files = [NpzFile(path, protocol, num_classes) for path, protocol in zip(args.data_path, args.protocol)]
    if args.dry_run:
        print("\n".join(preview(args.dataset, {file.protocol: file.counts for file in files})))
        return 0
    origin = flags.provenance("data_gen/ctrgcn_gendata.py", args, ("dataset", "data_path", "protocol"))
    store = StoreWriter(args.out_folder, args.dataset, num_classes, args.protocol, origin, args.overwrite)
    rows = rows_in_all(files) if len(files) > 1 else files[0]
    return prepare(store, read_clip, rows, args, unit="clip")


class NpzFile:
    """One file: the clips of one protocol, and their ``counts`` per split.

    Raises ``UserError`` if the file cannot be read, or an array is missing or has another shape.
    """

    def __init__(self, path: Path, protocol: str, num_classes: int) -> None:
        self.path, self.protocol, self.num_classes = path, protocol, num_classes
        with self._open() as archive:
            self.counts = {split: len(self._arrays(archive, part)[0]) for part, split in PARTS.items()}

    def __length_hint__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Row]:
        with self._open() as archive:
            for part, split in PARTS.items():
                for number, (frames, one_hot) in enumerate(zip(*self._arrays(archive, part))):
                    tracked = np.flatnonzero((frames != 0).any(axis=1))
                    length = tracked[-1] + 1 if len(tracked) else 1
                    name = f"{self.protocol}-{split}-{number:06d}"
                    with np.errstate(over="ignore"):  # read_clip rejects what is not finite
                        frames = frames[:length].astype(np.float32)
                    yield Row(name, frames, one_hot, {self.protocol: split})

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        with parse_errors(f"{self.path} cannot be used"), zipfile.ZipFile(self.path) as archive:
            yield archive

    def _arrays(self, archive: zipfile.ZipFile, part: str) -> tuple[ArrayRows, ArrayRows]:
        x = ArrayRows(archive, f"x_{part}", (MAX_FRAMES, NUM_PEOPLE * math.prod(PERSON_SHAPE)))
        return x, ArrayRows(archive, f"y_{part}", (self.num_classes,), len(x))


class ArrayRows:
    """The rows of an array in an .npz archive, read one after the other.

    Raises ``KeyError`` or ``ValueError`` if it is missing, damaged, or has rows of another shape.
    """

    def __init__(
        self, archive: zipfile.ZipFile, name: str, row_shape: tuple[int, ...], count: int | None = None
    ) -> None:
        self.row_shape = row_shape
        self._file = archive.open(f"{name}.npy")
        np.lib.format.read_magic(self._file)
        self.shape, is_fortran, self._dtype = np.lib.format.read_array_header_1_0(self._file)
        expected = (len(self) if count is None else count, *row_shape)
        if self.shape != expected or is_fortran or self._dtype.kind not in "fiub":
            order = " in Fortran order" if is_fortran else ""
            raise ValueError(f"{name} is {self._dtype} {self.shape}{order} instead of numbers {expected}")

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        count = math.prod(self.row_shape)
        for _ in range(len(self)):
            data = self._file.read(count * self._dtype.itemsize)
            yield np.frombuffer(data, self._dtype, count).reshape(self.row_shape)
        self._file.read(1)  # verifies the checksum


def rows_in_all(files: Sequence[NpzFile]) -> Iterator[Row]:
    """Yield the clips of the first file, with their splits in the protocols of all files.

    Raises ``UserError`` if the files do not contain the same clips.
    """
    found: dict[bytes, list[tuple[str, str]]] = defaultdict(list)  # digest -> (protocol, split)
    for file in files:
        for row in filter(Row.has_body, file):
            found[row.digest()] += row.splits.items()
    mismatches = 0
    for pairs in found.values():
        counts = Counter(pairs)  # a clip, or several that are equal, is in one split of each protocol
        mismatches += not len(dict(pairs)) == len(counts) == len(files) or len({*counts.values()}) > 1
    if mismatches:
        raise UserError(
            f"{' and '.join(file.path.name for file in files)} do not match: {mismatches:,} clips are not in "
            "one split of each; prepare each file by itself, with another --out_folder"
        )
    for row in files[0]:
        yield replace(row, splits=dict(found[row.digest()])) if row.has_body() else row


def read_clip(row: Row) -> FileResult:
    """Normalize one clip. Raises ``BadFile`` if it has no body, or the label is not one-hot."""
    ones = np.flatnonzero(row.one_hot)
    if len(ones) != 1 or row.one_hot[ones[0]] != 1:
        raise BadFile("the label is not one-hot")
    bodies = row.frames.reshape(-1, NUM_PEOPLE, *PERSON_SHAPE)
    clip = Clip(row.display_name, int(ones[0]), bodies.transpose(0, 2, 3, 1), row.splits)
    return prepare_clip(clip, row.display_name)


if __name__ == "__main__":
    run_script(main, memory_flags="--workers")
