"""Reader of NTU RGB+D ``.skeleton`` text files.

The format (Shahroudy et al., CVPR 2016), one item a line:

    number of frames
      number of bodies in this frame                      \
        body: id and nine numbers on tracking              |  once a frame
        number of joints, always 25                        |
        25 joints: x y z (metres, camera coordinates) and  |
        nine numbers on image positions and orientation   /

Only x, y and z are turned into numbers; they are a quarter of the text, and skipping the rest is
what makes the reader fast. The other columns are counted but not read, because published files
hold ``nan`` there. Blank lines, repeated blanks, tabs, CRLF ends and a byte-order mark are
accepted; anything else that departs from the format is a ``BadFile`` with its line.
"""

from __future__ import annotations

import numpy as np

from data_gen.errors import BadFile
from data_gen.text_numbers import Tokens, parse_decimals, parse_whole_number
from options.datasets import MAX_FRAMES, NUM_COORDINATES, NUM_JOINTS

MAX_BODIES = 4  # later bodies of a frame are not candidates in the released preparation
BODY_FIELDS, JOINT_FIELDS = 10, 12
_JOINTS_TEXT = b"%d" % NUM_JOINTS


def read_skeleton(data: bytes, max_frames: int = MAX_FRAMES) -> tuple[np.ndarray, int]:
    """Read the bytes of one ``.skeleton`` file.

    Returns float64 (bodies, frames, 25 joints, 3 coordinates) in metres, and the number of frames
    in the file, of which only the first ``max_frames`` are returned. The bodies are the first of
    every frame in their order in the file, at most four; zero where a frame has fewer. ``bodies``
    is 0 where no frame has one. Raises BadFile with the line where the file departs from the
    format.
    """
    tokens = Tokens(data)
    bodies_per_frame, joint_lines = _walk(tokens)
    num_frames = min(len(bodies_per_frame), max_frames)
    body_of, frame_of = _slots(bodies_per_frame)
    kept = (body_of < MAX_BODIES) & (frame_of < max_frames)
    body_of, frame_of = body_of[kept], frame_of[kept]
    bodies = np.zeros((body_of.max(initial=-1) + 1, num_frames, NUM_JOINTS, NUM_COORDINATES))
    if len(body_of):
        lines = _joint_lines(joint_lines[kept])
        values = parse_decimals(tokens, lines, NUM_COORDINATES)
        bodies[body_of, frame_of] = values.reshape(-1, NUM_JOINTS, NUM_COORDINATES)
    return bodies, len(bodies_per_frame)


def _walk(tokens: Tokens) -> tuple[list[int], np.ndarray]:
    """Follow the structure from line to line.

    Returns the number of bodies of each frame, and for every body the index of its first joint
    line. Line indices count the lines that are not blank.
    """
    if tokens.num_lines == 0:
        raise BadFile("the file is empty", 1)
    num_frames = parse_whole_number(tokens, 0, "the number of frames")
    if num_frames == 0:
        raise BadFile("the file says it has 0 frames", tokens.line_number(0))
    bodies_per_frame: list[int] = []
    joint_lines: list[int] = []
    line = 1
    try:
        for frame in range(num_frames):
            if line >= tokens.num_lines:
                raise _ends_early(tokens, frame, num_frames)
            bodies_per_frame.append(parse_whole_number(tokens, line, "the number of bodies"))
            line += 1
            for _ in range(bodies_per_frame[-1]):
                if line + 2 + NUM_JOINTS > tokens.num_lines:
                    _check_rest(tokens, line)
                    raise _ends_early(tokens, frame, num_frames)
                _check_body(tokens, line)
                joint_lines.append(line + 2)
                line += 2 + NUM_JOINTS
        if line < tokens.num_lines:
            raise BadFile(f"the file says it has {num_frames} frames but goes on after them",
                          tokens.line_number(line))
    finally:
        # where a line is missing or doubled, this is the first place that shows it
        first_joint_lines = np.array(joint_lines, dtype=np.int64)
        _check_joint_fields(tokens, first_joint_lines)
    return bodies_per_frame, first_joint_lines


def _slots(bodies_per_frame: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """For every body in the file: which one of its frame it is, and the frame."""
    counts = np.array(bodies_per_frame)
    frame_of = np.repeat(np.arange(len(counts)), counts)
    first_of_frame = np.cumsum(counts) - counts
    return np.arange(len(frame_of)) - first_of_frame[frame_of], frame_of


def _joint_lines(first_joint_lines: np.ndarray) -> np.ndarray:
    """The lines of all joints of the bodies whose first joint lines are given."""
    return (first_joint_lines[:, None] + np.arange(NUM_JOINTS)).ravel()


def _check_body(tokens: Tokens, line: int) -> None:
    """The two lines above a body's joints."""
    if tokens.num_fields[line] != BODY_FIELDS:
        raise _wrong_fields(tokens, line, "a body", BODY_FIELDS)
    if tokens.first_text(line + 1) != _JOINTS_TEXT:
        _check_joint_count(tokens, line + 1)


def _check_joint_count(tokens: Tokens, line: int) -> None:
    count = parse_whole_number(tokens, line, "the number of joints")
    if count != NUM_JOINTS:
        raise BadFile(f"a body has {count} joints instead of {NUM_JOINTS}",
                      tokens.line_number(line))


def _check_joint_fields(tokens: Tokens, first_joint_lines: np.ndarray) -> None:
    """Every joint line has its 12 fields and stands below a count of joints and nothing else."""
    for what, lines, expected in (("the number of joints", first_joint_lines - 1, 1),
                                  ("a joint", _joint_lines(first_joint_lines), JOINT_FIELDS)):
        wrong = np.flatnonzero(tokens.num_fields[lines] != expected)
        if len(wrong):
            raise _wrong_fields(tokens, int(lines[wrong[0]]), what, expected)


def _check_rest(tokens: Tokens, line: int) -> None:
    """Report a wrong line among those of a body that the end of the file cuts."""
    rest = range(line, tokens.num_lines - 1)  # the last line is what was cut
    for expected, index in zip([BODY_FIELDS, 1] + [JOINT_FIELDS] * NUM_JOINTS, rest):
        if tokens.num_fields[index] != expected:
            raise _wrong_fields(tokens, index, "a line of a body", expected)


def _ends_early(tokens: Tokens, frame: int, num_frames: int) -> BadFile:
    return BadFile(f"the file ends in frame {frame + 1} of the {num_frames} it says it has",
                   tokens.line_number(tokens.num_lines - 1))


def _wrong_fields(tokens: Tokens, line: int, what: str, expected: int) -> BadFile:
    return BadFile(f"{what} has {tokens.num_fields[line]} fields on its line instead of {expected}",
                   tokens.line_number(line))
