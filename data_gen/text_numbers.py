"""Numbers out of text, thousands at a time, with numpy.

``Tokens`` finds the blank-separated fields of a text and counts them per line without making a
Python object of any; ``parse_decimals`` reads chosen fields. Both work on the bytes of the file.
"""

from __future__ import annotations

import re

import numpy as np

from data_gen.errors import BadFile

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FIELDS_AT_ONCE = 1 << 15  # bounds the memory for a long file
# Whole numbers of 15 digits are exact in float64, and so are these powers of ten.
_WINDOW = 15  # characters of a field that are looked at together
_POWERS = 10.0 ** np.arange(_WINDOW + 1)
_PLACES = np.ascontiguousarray(_POWERS[_WINDOW - 1::-1])  # of the digits, left to right


class Tokens:
    """Where the fields of a text are.

    ``starts`` and ``ends`` are the byte positions of every field. The lines that are not blank
    are counted without the blank ones: line ``i`` has ``num_fields[i]`` fields, of which
    ``first_field[i]`` is the first and ``first_text(i)`` what stands there.
    """

    def __init__(self, data: bytes) -> None:
        if data.startswith(BYTE_ORDER_MARK):
            data = data[len(BYTE_ORDER_MARK):]
        # a newline in front and behind makes every field have a separator on both sides, and the
        # room behind lets a window of fixed width start at any field
        self.data = b"\n" + data + b"\n" * (_WINDOW + 1)
        self.bytes = np.frombuffer(self.data, dtype=np.uint8)
        blank = self.bytes <= ord(" ")
        edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1
        self.starts, self.ends = edges[0::2], edges[1::2]
        line_ends = np.flatnonzero(self.bytes == ord("\n"))
        fields_before = np.searchsorted(self.starts, line_ends)
        fields = np.diff(fields_before)
        self._lines = np.flatnonzero(fields)  # which lines of the file are not blank
        self.num_lines = len(self._lines)
        self.num_fields = fields[self._lines]
        self.first_field = fields_before[self._lines]
        # lists, because a walk over single lines is much faster on them than on arrays
        self._first_starts = self.starts[self.first_field].tolist()
        self._first_ends = self.ends[self.first_field].tolist()

    def line_number(self, line: int) -> int:
        """The number of a line in the file, counted from one and with the blank ones."""
        return int(self._lines[line]) + 1

    def first_text(self, line: int) -> bytes:
        return self.data[self._first_starts[line]:self._first_ends[line]]

    def text(self, field: int) -> bytes:
        return self.data[self.starts[field]:self.ends[field]]


def parse_whole_number(tokens: Tokens, line: int, what: str) -> int:
    """The only field of a line, as an int of at most six digits, not negative."""
    text = tokens.first_text(line)
    if tokens.num_fields[line] != 1 or not text.isdigit() or len(text) > 6:
        raise BadFile(f"{what} should stand here alone on its line", tokens.line_number(line))
    return int(text)


def parse_decimals(tokens: Tokens, lines: np.ndarray, columns: int) -> np.ndarray:
    """The first fields of some lines, as float64 (len(lines), columns).

    The result is the same as ``float(text)`` of each field to the last bit: a decimal of at most
    14 characters is one exact whole number divided by one exact power of ten. Other spellings
    (exponents, more digits) are read one by one. Raises BadFile where a field is not a finite
    number or lies beyond float32.
    """
    values = np.empty((len(lines), columns))
    step = max(_FIELDS_AT_ONCE // columns, 1)
    for start in range(0, len(lines), step):
        values[start:start + step] = _parse_block(tokens, lines[start:start + step], columns)
    return values


def _parse_block(tokens: Tokens, lines: np.ndarray, columns: int) -> np.ndarray:
    fields = (tokens.first_field[lines][:, None] + np.arange(columns)).ravel()
    starts, lengths = tokens.starts[fields], tokens.ends[fields] - tokens.starts[fields]
    first = tokens.bytes[starts]
    negative = first == ord("-")
    signed = negative | (first == ord("+"))
    values, simple = _simple_decimals(tokens.bytes, starts + signed, lengths - signed)
    np.negative(values, out=values, where=negative)
    for i in np.flatnonzero(~simple):
        text = tokens.text(fields[i])
        if not _NUMBER.fullmatch(text):
            shown = text[:20].decode("ascii", "backslashreplace")
            raise BadFile(f"'{shown}' is not a finite number",
                          tokens.line_number(lines[i // columns]))
        values[i] = float(text)
    too_large = np.flatnonzero(np.abs(values) > np.finfo(np.float32).max)
    if len(too_large):
        raise BadFile("a coordinate is too large",
                      tokens.line_number(lines[too_large[0] // columns]))
    return values.reshape(-1, columns)


def _simple_decimals(text: np.ndarray, starts: np.ndarray,
                     lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read fields made of digits and at most one point; say which ones were of this kind.

    All fields are handled together, as a table with one column a field and one row a character.
    """
    windows = np.ndarray(len(text) - _WINDOW + 1, f"V{_WINDOW}", text, strides=(1,))[starts]
    table = np.ascontiguousarray(windows.view(np.uint8).reshape(-1, _WINDOW).T)
    rows = np.arange(_WINDOW, dtype=np.uint8)[:, None]
    inside = rows < np.minimum(lengths, _WINDOW).astype(np.uint8)
    digits = table - np.uint8(ord("0"))
    is_point = (table == ord(".")) & inside
    is_digit = (digits < 10) & inside
    num_points = is_point.sum(axis=0, dtype=np.uint8)
    num_digits = is_digit.sum(axis=0, dtype=np.uint8)
    simple = ((lengths < _WINDOW) & (num_points <= 1) & (num_digits > 0)
              & (num_digits + num_points == lengths))
    # "12.5" is read as 12050...0, with a zero for the point and zeros behind; all of this is done
    # in whole numbers, which float64 holds exactly, but for the division at the end
    gapped = _PLACES @ (digits * is_digit).astype(np.float64)
    point_at = np.where(num_points > 0, (is_point * rows).sum(axis=0, dtype=np.uint8), lengths)
    one = _POWERS[_WINDOW - 1 - np.minimum(point_at, _WINDOW - 1)]  # worth of the last digit
    before = np.floor(gapped / (10 * one))
    # in 12050...0 the digits before the point are worth ten times too much
    return (gapped - 9 * one * before) / one, simple
