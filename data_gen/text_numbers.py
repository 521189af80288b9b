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
_MAX_DIGITS = 15  # whole numbers of so many digits are exact in float64, and so are powers of ten
_POWERS = 10.0 ** np.arange(_MAX_DIGITS + 2)


class Tokens:
    """Where the fields of a text are.

    ``starts`` and ``ends`` are the byte positions of every field; ``fields_per_line`` and
    ``first_field`` describe the lines that are not blank, in order.
    """

    def __init__(self, data: bytes) -> None:
        if data.startswith(BYTE_ORDER_MARK):
            data = data[len(BYTE_ORDER_MARK):]
        # a newline in front and behind makes every field have a separator on both sides, and the
        # room behind lets a window of fixed width start at any field
        self.data = b"\n" + data + b"\n" * (_MAX_DIGITS + 3)
        self.bytes = np.frombuffer(self.data, dtype=np.uint8)
        blank = self.bytes <= ord(" ")
        edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1
        self.starts, self.ends = edges[0::2], edges[1::2]
        line_ends = np.flatnonzero(self.bytes == ord("\n"))
        fields_before = np.searchsorted(self.starts, line_ends)
        fields = np.diff(fields_before)
        self._lines = np.flatnonzero(fields)  # which lines of the file are not blank
        self.fields_per_line = fields[self._lines]
        self.first_field = fields_before[self._lines]
        self.num_lines = len(self._lines)

    def line_number(self, line: int) -> int:
        """The number, counted from one, in the file of a line counted without the blank ones."""
        return int(self._lines[line]) + 1

    def text(self, field: int) -> bytes:
        return self.data[self.starts[field]:self.ends[field]]


def parse_whole_number(tokens: Tokens, line: int, what: str) -> int:
    """The only field of a line, as an int of at most six digits, not negative."""
    text = tokens.text(tokens.first_field[line])
    if tokens.fields_per_line[line] != 1 or not text.isdigit() or len(text) > 6:
        raise BadFile(f"{what} should stand here alone on its line", tokens.line_number(line))
    return int(text)


def parse_decimals(tokens: Tokens, lines: np.ndarray, columns: int) -> np.ndarray:
    """The first fields of some lines, as float64 (len(lines), columns).

    The result is the same as ``float(text)`` of each field to the last bit: a decimal of at most
    15 digits is one exact whole number divided by one exact power of ten. Other spellings
    (exponents, more digits) are read one by one. Raises BadFile where a field is not a finite
    number or lies beyond float32.
    """
    fields = (tokens.first_field[lines][:, None] + np.arange(columns)).ravel()
    starts, lengths = tokens.starts[fields], tokens.ends[fields] - tokens.starts[fields]
    first = tokens.bytes[starts]
    negative = first == ord("-")
    signed = negative | (first == ord("+"))
    starts, lengths = starts + signed, lengths - signed
    values, simple = _simple_decimals(tokens.bytes, starts, lengths)
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
        raise BadFile("a coordinate is too large", tokens.line_number(lines[too_large[0] // columns]))
    return values.reshape(-1, columns)


def _simple_decimals(text: np.ndarray, starts: np.ndarray,
                     lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read fields made of digits and at most one point; say which ones were of this kind."""
    width = int(min(lengths.max(initial=1), _MAX_DIGITS + 1))
    windows = np.lib.stride_tricks.sliding_window_view(text, width)[starts]  # fields x width
    columns = np.ascontiguousarray(windows.T)  # a column of all fields is one contiguous row
    inside = np.arange(width, dtype=np.uint8)[:, None] < lengths.astype(np.uint8)
    digits = columns - np.uint8(ord("0"))
    is_point = (columns == ord(".")) & inside
    is_digit = (digits < 10) & inside
    num_points = is_point.sum(axis=0, dtype=np.uint8)
    num_digits = is_digit.sum(axis=0, dtype=np.uint8)
    simple = ((lengths <= width) & (num_points <= 1) & (num_digits > 0)
              & (num_digits + num_points == lengths))
    digits[~is_digit] = 0
    # Horner over the columns; the point is skipped, and what is behind the end appends zeros
    whole = np.zeros(len(starts))
    for c in range(width):
        shifted = whole * 10.0 + digits[c]
        whole = np.where(is_point[c], whole, shifted)
    point_at = np.where(num_points > 0, is_point.argmax(axis=0), lengths)
    decimals = width - point_at - (num_points > 0)
    return whole / _POWERS[decimals], simple
