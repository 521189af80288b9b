"""Read CSV tables, including those exported by spreadsheet programs."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError

DELIMITERS = (",", ";", "\t")
WORKBOOKS = {b"PK\3\4": "an Excel workbook", b"\xd0\xcf\x11\xe0": "an old Excel workbook"}


@dataclass(frozen=True)
class CsvTable:
    """A table: the names of its columns, and its rows with their line numbers."""

    columns: list[str]
    rows: list[tuple[int, list[str]]]


def read_csv(path: Path, required: tuple[str, ...], advice: str) -> CsvTable:
    """Read a CSV table.

    The delimiter is the one that separates the required columns. A byte-order mark, UTF-16, blank rows,
    blanks around cells and empty columns at the right are accepted, as spreadsheet programs write them.

    Args:
        path: the file.
        required: columns that the table should have; the caller checks the result.
        advice: what to do if the file cannot be read, for the error message.

    Raises:
        UserError: the file cannot be read as a table.
    """
    text = _read_text(path, advice)
    first, _, rest = text.partition("\n")
    given = first.strip().strip('"').lower()
    delimiters: tuple[str, ...] = DELIMITERS
    skipped = 0
    if given.startswith("sep=") and len(given) == 5:  # a line for Excel
        delimiters, text, skipped = (given[4],), rest, 1
    tables = []
    for delimiter in delimiters:
        try:
            tables.append(_parse(text, delimiter, skipped))
        except csv.Error as error:
            raise UserError(f"{path} cannot be read as a table ({error}); {advice}") from error
    for table in tables:
        if set(required) <= set(table.columns):
            return table
    return max(tables, key=lambda table: len(table.columns))


def _read_text(path: Path, advice: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {advice}") from error
    if data and not data.strip(b"\0"):
        raise UserError(f"{path} consists of NUL bytes, as after an interrupted download or copy; {advice}")
    for magic, what in WORKBOOKS.items():
        if data.startswith(magic):
            raise UserError(f"{path} is {what}; save it as CSV UTF-8")
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not encoded as UTF-8 ({error.reason}); save it as CSV UTF-8") from error


def _parse(text: str, delimiter: str, skipped: int) -> CsvTable:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = [(reader.line_num + skipped, [cell.strip() for cell in row]) for row in reader]
    rows = [(line, row) for line, row in rows if any(row)]
    if not rows:
        return CsvTable([], [])
    (_, columns), *rows = rows
    width = max(i for i, column in enumerate(columns, start=1) if column)
    return CsvTable(
        columns[:width],
        [(line, row[:width] if not any(row[width:]) else row) for line, row in rows],
    )
