"""Arrays on disk and the table that names and labels them, for ``arrays_gendata.py``."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Mapping

import numpy as np

from data_gen.errors import BadFile
from data_gen.store_writer import Remark
from dataset.store_format import CLIP_COLUMNS, SPLITS
from options.errors import UserError


@dataclass(frozen=True)
class ArrayFile:
    """One clip that has a row in the table and an array."""

    name: str
    label: int
    splits: Mapping[str, str]
    data_path: Path
    normalise: bool

    def read(self) -> np.ndarray:
        """Raises BadFile where there is no such array or it cannot be read."""
        try:
            if self.data_path.is_dir():
                return np.load(self.data_path / f"{self.name}.npy", allow_pickle=False)
            return _open_arrays(self.data_path)[self.name]
        except (OSError, KeyError) as error:
            raise BadFile("there is no such array") from error
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise BadFile("cannot be read as an array of numbers") from error


def read_table(path: Path, data_path: Path, num_classes: int | None, normalise: bool
               ) -> tuple[dict[str, ArrayFile], list[str], list[Remark]]:
    """The rows of a table by name, its protocols, and what is wrong with other rows."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            table = [(reader.line_num, row) for row in reader]
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
    protocols = [column for column in columns if column not in CLIP_COLUMNS]
    if "name" not in columns or "label" not in columns or not protocols:
        raise UserError(f"{path} needs the columns name, label, and one for each protocol "
                        "with train or val; see the head of data_gen/arrays_gendata.py")
    rows: dict[str, ArrayFile] = {}
    left_out: list[Remark] = []
    for line, row in table:
        splits = {protocol: row[protocol] for protocol in protocols if row[protocol]}
        if not (row["label"] or "").isdecimal():
            reason = f"label '{row['label']}' is not a whole number from 0"
        elif num_classes and int(row["label"]) >= num_classes:
            reason = f"label {row['label']} is not one of {num_classes} classes, from 0"
        elif not set(splits.values()) <= set(SPLITS):
            reason = f"a protocol says neither {' nor '.join(SPLITS)}"
        elif row["name"] in rows:
            reason = f"{row['name']} has a row above"
        else:
            rows[row["name"]] = ArrayFile(row["name"], int(row["label"]), splits, data_path,
                                          normalise)
            continue
        left_out.append(Remark(path.name, line, reason))
    return rows, protocols, left_out


def array_names(path: Path) -> set[str]:
    if path.is_dir():
        return {file.stem for file in path.glob("*.npy")}
    try:
        return set(_open_arrays(path).files)
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(f"{path} is neither a folder nor an .npz file that can be read; give one "
                        "with --data_path") from error


@lru_cache(maxsize=1)
def _open_arrays(path: Path) -> np.lib.npyio.NpzFile:
    return np.load(path, allow_pickle=False)
