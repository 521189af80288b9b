"""The reader of NTU skeleton files: what it accepts, and the line and reason of what it rejects."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from damaged_inputs import TEXT_DAMAGES, damage

from data_gen.normalize import normalize_clip
from data_gen.skeleton_file import read_skeleton
from data_gen.sources import BadFile

GOLDEN_RAW = Path(__file__).parent / "golden" / "ntu_skeletons.zip"


@pytest.fixture(scope="module")
def raw_files():
    with zipfile.ZipFile(GOLDEN_RAW) as archive:
        return {name[:20]: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def valid(raw_files):
    """A file of 72 frames with one body each.

    Line 1 has the number of frames. In frame 1, line 2 has the number of bodies, 3 the body, 4 the number of
    joints, 5 to 29 the joints.
    """
    return raw_files["S001C001P001R001A001"]


def replace_line(data: bytes, number: int, new: bytes) -> bytes:
    lines = data.split(b"\n")
    lines[number - 1] = new
    return b"\n".join(lines)


def joint(x: bytes) -> bytes:
    return x + b" 0.1 3 1 1 1 1 0 0 0 0 2"


@pytest.mark.parametrize(
    "damage,line,reason",
    [
        (lambda d: b"", 1, "empty"),
        (lambda d: b" \r\n\n", 1, "empty"),
        (lambda d: b"\n".join(d.split(b"\n")[: 1 + 28 * 10 + 8]), 1 + 28 * 10 + 8, "truncated in frame 11"),
        (lambda d: b"\n".join(d.split(b"\n")[: 1 + 28 * 71]), 1 + 28 * 71, "truncated in frame 72 of 72"),
        (lambda d: d[: d.index(b"0.9541", 20000)], None, "truncated in frame"),
        (lambda d: replace_line(d, 1, b"71"), 1 + 28 * 71 + 1, "gives 71 frames, but more data"),
        (lambda d: replace_line(d, 1, b"73"), 1 + 28 * 72, "truncated in frame 73 of 73"),
        (lambda d: replace_line(d, 1, b"0"), 1, "0 frames"),
        (lambda d: replace_line(d, 1, b"-72"), 1, "number of frames"),
        (lambda d: replace_line(d, 1, b"72.0"), 1, "number of frames"),
        (lambda d: replace_line(d, 4, b"24"), 4, "24 joints instead of 25"),
        (lambda d: replace_line(d, 4, b"25 3"), 4, "2 fields instead of 1"),
        (lambda d: replace_line(d, 2, b"x"), 2, "number of bodies"),
        (lambda d: replace_line(d, 2, b"2"), 30, "a body has 1 fields"),
        (lambda d: replace_line(d, 3, b"7205"), 3, "a body has 1 fields instead of 10"),
        (lambda d: replace_line(d, 29, b""), 30, "a joint has 1 fields instead of 12"),
        (lambda d: replace_line(d, 7, joint(b"abc")), 7, "'abc' is not a finite number"),
        (lambda d: replace_line(d, 7, joint(b"nan")), 7, "'nan' is not a finite number"),
        (lambda d: replace_line(d, 7, joint(b"-inf")), 7, "'-inf' is not a finite number"),
        (lambda d: replace_line(d, 7, joint(b"1_0")), 7, "'1_0' is not a finite number"),
        (lambda d: replace_line(d, 7, joint(b"1.2.3")), 7, "'1.2.3' is not a finite number"),
        (lambda d: replace_line(d, 7, joint(b"--1")), 7, "'--1' is not a finite number"),
        (lambda d: replace_line(d, 7, joint("\u0661".encode())), 7, "is not a finite number"),
        (lambda d: replace_line(d, 7, joint(b"1e39")), 7, "too large"),
        (lambda d: replace_line(d, 7, joint(b"1e999")), 7, "too large"),
        (lambda d: replace_line(d, 7, joint(b"9" * 400)), 7, "too large"),
        (lambda d: d.decode().encode("utf-16"), 1, "number of frames"),
    ],
)
def test_bad_files_are_reported_with_reason_and_line(valid, damage, line, reason):
    with pytest.raises(BadFile) as caught:
        read_skeleton(damage(valid))
    assert reason in caught.value.reason
    assert line is None or caught.value.line == line


def test_damaged_files_give_a_clip_or_a_reason(raw_files):
    """Never a crash or a NaN."""
    names, clips, count = sorted(raw_files), 0, 600
    for seed in range(count):
        try:
            bodies, num_frames = read_skeleton(
                damage(raw_files[names[seed % len(names)]], seed, TEXT_DAMAGES)
            )
            frames = normalize_clip(bodies)
        except BadFile as error:
            assert error.reason and (error.line is None or error.line >= 1)
            continue
        assert frames.dtype == np.float32 and frames.shape[1:] == (25, 3, 2) and np.isfinite(frames).all()
        assert 1 <= len(frames) == min(num_frames, 300)
        clips += 1
    assert 0.1 * count < clips < 0.9 * count


@pytest.mark.parametrize(
    "spelling",
    [
        lambda d: b"\xef\xbb\xbf" + d.replace(b"\n", b"\r\n"),
        lambda d: d.replace(b" ", b"  \t").replace(b"\n", b" \n\n  "),
        lambda d: d.rstrip(),
    ],
)
def test_equivalent_spellings_give_the_same_bodies(valid, spelling):
    expected, frames = read_skeleton(valid)
    got, got_frames = read_skeleton(spelling(valid))
    assert np.array_equal(got, expected) and got_frames == frames == 72


def test_numbers_equal_float():
    rng = np.random.default_rng(0)
    texts = [
        spelling(value)
        for value in rng.uniform(-9, 9, 3000).tolist()
        for spelling in (repr, "{:.7g}".format, "{:.4f}".format, "{:.3e}".format, "{:+.0f}".format)
    ]
    texts += ["0", "-0", "+.5", "5.", "00012.50", "99999999999999", "9999999999999.9", "1e-400"]
    texts += [".99999999999999", "123456789012345678901234567890", "-0.000000000000000000001"]
    joints = [f"{text} 0 0 0 0 0 0 0 0 0 0 0" for text in texts]
    joints += joints[: -len(joints) % 25]
    bodies = ["1\n" + "0 " * 10 + "\n25\n" + "\n".join(joints[i : i + 25]) for i in range(0, len(joints), 25)]
    data = f"{len(bodies)}\n" + "\n".join(bodies)
    read, _ = read_skeleton(data.encode(), max_frames=len(bodies))
    assert read[0, :, :, 0].ravel()[: len(texts)].tolist() == [float(text) for text in texts]


def test_only_the_first_300_frames_are_kept(raw_files):
    data = raw_files["S006C002P010R002A007"]  # 300 frames
    first = data.index(b"\n") + 1
    longer = b"936\n" + data[first:].rstrip() + b"\n" + b"\n".join([b"0"] * 636)
    bodies, num_frames = read_skeleton(longer)
    assert num_frames == 936
    assert np.array_equal(bodies, read_skeleton(data)[0])


def test_file_without_a_body(raw_files):
    bodies, num_frames = read_skeleton(raw_files["S007C001P011R001A008"])
    assert bodies.shape == (0, 12, 25, 3) and num_frames == 12
    with pytest.raises(BadFile, match="no body in any frame"):
        normalize_clip(bodies)
