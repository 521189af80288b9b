"""Read skeletons from text: the ``.skeleton`` files of NTU RGB+D and the skeleton files of PKU-MMD.

NTU RGB+D (Shahroudy et al., CVPR 2016) has one item per line:

    number of frames
      per frame: number of bodies
        per body: ID and nine numbers on tracking
                  number of joints, always 25
                  25 lines: x y z of a joint (meters, camera coordinates), and nine numbers on image positions
                            and orientation

PKU-MMD (Liu et al., 2017) has one frame per line: 150 numbers, 2 bodies x 25 joints x (x, y, z) in meters,
zeros if there is no second body.

Only x, y and z, a quarter of an NTU file, are converted to numbers. The other columns are only counted:
published files contain ``nan`` there. Blank lines, repeated spaces, tabs, CRLF line endings and a byte-order
mark are accepted. Any other departure from the format raises ``BadFile`` with the line.
"""

from __future__ import annotations

import re

import numpy as np

from data_gen.sources import BadFile
from facts.datasets import MAX_FRAMES, NUM_COORDINATES, NUM_PEOPLE
from facts.skeletons import KINECT_V2

MAX_BODIES = 4  # the official code considers only the first four bodies of a frame
NUM_JOINTS = KINECT_V2.num_joints  # of both formats
BODY_FIELDS, JOINT_FIELDS = 10, 12
BODY_LINES = 2 + NUM_JOINTS
PKU_FIELDS = NUM_PEOPLE * NUM_JOINTS * NUM_COORDINATES
_LINES = {BODY_FIELDS: "a body", 1: "the number of joints", JOINT_FIELDS: "a joint"}
_NUM_JOINTS_TEXT = b"%d" % NUM_JOINTS

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FIELDS_PER_BLOCK = 1 << 15  # bounds the memory for a long file
# Whole numbers of 15 digits are exact in float64, and so are these powers of ten.
_WINDOW = 15  # characters of a field that are parsed together
_POWERS = 10.0 ** np.arange(_WINDOW + 1)
_PLACE_VALUES = np.ascontiguousarray(_POWERS[_WINDOW - 1 :: -1])  # of the digits, left to right


def read_skeleton(data: bytes, max_frames: int = MAX_FRAMES) -> tuple[np.ndarray, int]:
    """Read the content of an NTU ``.skeleton`` file; frames after ``max_frames`` are only checked.

    Returns float64 (bodies, frames, 25 joints, 3 coordinates) in meters, and the number of frames in the
    file. The bodies are the first four of every frame in their order in the file, zero if a frame has fewer.
    There are 0 bodies if no frame has one. Raises ``BadFile`` with the line if the file is invalid.
    """
    text = TextFields(data)
    bodies_per_frame, first_joint_lines = _parse_structure(text)
    num_frames = min(len(bodies_per_frame), max_frames)
    counts = np.array(bodies_per_frame)
    frame = np.repeat(np.arange(len(counts)), counts)  # of every body in the file
    body = np.arange(len(frame)) - (np.cumsum(counts) - counts)[frame]  # its index within the frame
    kept = (body < MAX_BODIES) & (frame < max_frames)
    body, frame = body[kept], frame[kept]
    bodies = np.zeros((body.max(initial=-1) + 1, num_frames, NUM_JOINTS, NUM_COORDINATES))
    if len(body):
        lines = (first_joint_lines[kept][:, None] + np.arange(NUM_JOINTS)).ravel()
        values = parse_decimals(text, lines, NUM_COORDINATES)
        bodies[body, frame] = values.reshape(-1, NUM_JOINTS, NUM_COORDINATES)
    return bodies, len(bodies_per_frame)


def read_pku_skeleton(data: bytes) -> np.ndarray:
    """Read the skeleton file of one PKU-MMD video: float64 (2 bodies, frames, 25 joints, 3 coordinates).

    Raises ``BadFile`` with the line if a line does not consist of 150 finite numbers.
    """
    text = TextFields(data)
    wrong = np.flatnonzero(text.num_fields != PKU_FIELDS)
    if len(wrong):
        count = text.num_fields[wrong[0]]
        raise BadFile(f"a frame has {count} numbers instead of {PKU_FIELDS}", text.line_number(int(wrong[0])))
    values = parse_decimals(text, np.arange(text.num_lines), PKU_FIELDS)
    return values.reshape(-1, NUM_PEOPLE, NUM_JOINTS, NUM_COORDINATES).swapaxes(0, 1)


class TextFields:
    """The positions of the whitespace-separated fields of a text.

    ``starts`` and ``ends`` are byte positions in arrays, so no Python object is created per field. Only lines
    that are not blank are indexed: line ``i`` has ``num_fields[i]`` fields, and ``first_field[i]`` is the
    index of the first of them.
    """

    def __init__(self, data: bytes) -> None:
        data = data.removeprefix(BYTE_ORDER_MARK)
        # A newline at both ends gives every field a separator on both sides. The additional newlines at the
        # end let a window of fixed width start at any field.
        self.data = b"\n" + data + b"\n" * (_WINDOW + 1)
        self.bytes = np.frombuffer(self.data, dtype=np.uint8)
        blank = self.bytes <= ord(" ")
        edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1
        self.starts, self.ends = edges[0::2], edges[1::2]
        line_ends = np.flatnonzero(self.bytes == ord("\n"))
        fields_before = np.searchsorted(self.starts, line_ends)
        fields = np.diff(fields_before)
        self._lines = np.flatnonzero(fields)  # indices in the file of the lines that are not blank
        self.num_lines = len(self._lines)
        if not self.num_lines:
            raise BadFile("the file is empty", 1)
        self.num_fields = fields[self._lines]
        self.first_field = fields_before[self._lines]
        # Lists, because reading single elements of them is much faster than of arrays.
        self._first_starts = self.starts[self.first_field].tolist()
        self._first_ends = self.ends[self.first_field].tolist()

    def line_number(self, line: int) -> int:
        """Return the number of a line in the file, from 1 and including blank lines; -1 is the last one."""
        return int(self._lines[line]) + 1

    def first_text(self, line: int) -> bytes:
        """Return the first field of a line."""
        return self.data[self._first_starts[line] : self._first_ends[line]]

    def text(self, field: int) -> bytes:
        """Return a field."""
        return self.data[self.starts[field] : self.ends[field]]


def _parse_structure(text: TextFields) -> tuple[list[int], np.ndarray]:
    """Return the number of bodies per frame, and the line of the first joint of every body."""
    num_frames = _parse_count(text, 0, "the number of frames")
    if num_frames == 0:
        raise BadFile("the first line gives 0 frames", text.line_number(0))
    bodies_per_frame: list[int] = []
    bodies: list[int] = []  # their first lines
    line = 1
    try:
        for frame in range(num_frames):
            truncated = f"the file is truncated in frame {frame + 1} of {num_frames}"
            if line >= text.num_lines:
                raise BadFile(truncated, text.line_number(-1))
            bodies_per_frame.append(_parse_count(text, line, "the number of bodies"))
            line += 1
            for _ in range(bodies_per_frame[-1]):
                bodies.append(line)
                line += BODY_LINES
                if line > text.num_lines:
                    raise BadFile(truncated, text.line_number(-1))
        if line < text.num_lines:
            reason = f"the first line gives {num_frames} frames, but more data follows"
            raise BadFile(reason, text.line_number(line))
    finally:
        # If a line is missing or duplicated, this check raises at the first place that shows it.
        _check_bodies(text, np.array(bodies, dtype=np.int64))
    return bodies_per_frame, np.array(bodies, dtype=np.int64) + 2


def _check_bodies(text: TextFields, bodies: np.ndarray) -> None:
    """Raise ``BadFile`` for the first line of a body with another number of fields or joints.

    The last line of a file that ends within a body may be incomplete.
    """
    lines = bodies[:, None] + np.arange(BODY_LINES)
    expected = np.broadcast_to([BODY_FIELDS, 1] + [JOINT_FIELDS] * NUM_JOINTS, lines.shape)
    is_complete = lines < text.num_lines - (lines.max(initial=0) >= text.num_lines)
    lines, expected = lines[is_complete], expected[is_complete]
    for i in np.flatnonzero(text.num_fields[lines] != expected)[:1]:
        line, count = int(lines[i]), int(expected[i])
        reason = f"{_LINES[count]} has {text.num_fields[line]} fields instead of {count}"
        raise BadFile(reason, text.line_number(line))
    for line in lines[expected == 1].tolist():
        if text.first_text(line) != _NUM_JOINTS_TEXT:
            count = _parse_count(text, line, "the number of joints")
            raise BadFile(f"a body has {count} joints instead of {NUM_JOINTS}", text.line_number(line))


def _parse_count(text: TextFields, line: int, what: str) -> int:
    """Return the only field of a line as a non-negative int of at most six digits."""
    count = text.first_text(line)
    if text.num_fields[line] != 1 or not count.isdigit() or len(count) > 6:
        raise BadFile(f"{what} is expected alone on this line", text.line_number(line))
    return int(count)


def parse_decimals(text: TextFields, lines: np.ndarray, columns: int) -> np.ndarray:
    """Return the first ``columns`` fields of some lines as float64 (len(lines), columns).

    The result equals ``float(field)`` to the last bit: a decimal of at most 14 characters is an exact integer
    divided by an exact power of ten. Other spellings (exponents, more digits) are parsed one by one.
    Raises ``BadFile`` if a field is not a finite number or exceeds the range of float32.
    """
    values = np.empty((len(lines), columns))
    step = max(_FIELDS_PER_BLOCK // columns, 1)
    for start in range(0, len(lines), step):
        values[start : start + step] = _parse_block(text, lines[start : start + step], columns)
    return values


def _parse_block(text: TextFields, lines: np.ndarray, columns: int) -> np.ndarray:
    fields = (text.first_field[lines][:, None] + np.arange(columns)).ravel()
    starts, lengths = text.starts[fields], text.ends[fields] - text.starts[fields]
    first = text.bytes[starts]
    negative = first == ord("-")
    signed = negative | (first == ord("+"))
    values, simple = _parse_simple_decimals(text.bytes, starts + signed, lengths - signed)
    np.negative(values, out=values, where=negative)
    for i in np.flatnonzero(~simple):
        number = text.text(fields[i])
        if not _NUMBER.fullmatch(number):
            excerpt = number[:20].decode("ascii", "backslashreplace")
            raise BadFile(f"'{excerpt}' is not a finite number", text.line_number(lines[i // columns]))
        values[i] = float(number)
    too_large = np.flatnonzero(np.abs(values) > np.finfo(np.float32).max)
    if len(too_large):
        raise BadFile("a coordinate is too large", text.line_number(lines[too_large[0] // columns]))
    return values.reshape(-1, columns)


def _parse_simple_decimals(
    text: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Parse fields that consist of digits and at most one point; also return which fields do.

    All fields are processed together, in a table with one column per field and one row per character.
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
    simple = (lengths < _WINDOW) & (num_points <= 1) & (num_digits > 0) & (num_digits + num_points == lengths)
    # "12.5" is read as 12050...0, with a zero in place of the point and zeros after the number. Everything
    # but the division at the end is done in whole numbers, which float64 represents exactly.
    gapped = _PLACE_VALUES @ (digits * is_digit).astype(np.float64)
    point_at = np.where(num_points > 0, (is_point * rows).sum(axis=0, dtype=np.uint8), lengths)
    one = _POWERS[_WINDOW - 1 - np.minimum(point_at, _WINDOW - 1)]  # the value of the last digit
    before = np.floor(gapped / (10 * one))
    # In 12050...0 the digits before the point count ten times too much.
    return (gapped - 9 * one * before) / one, simple
