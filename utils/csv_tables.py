"""Read CSV tables, including those exported by spreadsheet programs."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError, parse_errors


@dataclass(frozen=True)
class CsvTable:
    """A table: the names of its columns, and its rows with their line numbers."""

    columns: list[str]
    rows: list[tuple[int, list[str]]]


def read_csv(path: Path, required: tuple[str, ...], advice: str) -> CsvTable:
    """Read a CSV table, as spreadsheet programs write it; the delimiter is the most frequent in the header.

    A byte-order mark, blank rows, blanks around cells and empty columns at the right are accepted. Raises
    ``UserError``, with ``advice``, if it is not a table in UTF-8 or lacks a column of ``required``.
    """
    with parse_errors(f"{path} is not a CSV table in UTF-8", lambda text: UserError(f"{text}; {advice}")):
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        filled = (row for row in reader if any(map(str.strip, row)))
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in filled]
    columns = rows[0][1] if rows else []
    while columns and not columns[-1]:
        columns.pop()
    if missing := [name for name in required if name not in columns]:
        raise UserError(f"{path} has no column {', '.join(missing)}, but has {', '.join(columns)}; {advice}")
    width = len(columns)
    return CsvTable(columns, [(n, row[:width] if not any(row[width:]) else row) for n, row in rows[1:]])
