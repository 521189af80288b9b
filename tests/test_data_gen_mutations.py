"""Randomly damaged skeleton files become clips or reasons, never a crash or a NaN."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_gen import ntu_gendata
from data_gen.normalize import normalize_clip
from data_gen.skeleton_file import read_skeleton
from data_gen.sources import BadFile
from dataset.store_format import CLIPS_FILE, FRAMES_FILE, INFO_FILE

GOLDEN_RAW = Path(__file__).parent / "golden" / "ntu_skeletons.zip"


@pytest.fixture(scope="module")
def raw_files():
    with zipfile.ZipFile(GOLDEN_RAW) as archive:
        return {name[:20]: archive.read(name) for name in archive.namelist()}


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Apply one or two random damages."""
    for _ in range(rng.integers(1, 3)):
        data = DAMAGES[rng.integers(len(DAMAGES))](data, rng)
    return data


def flip_byte(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        if changed:
            changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite_character(data: bytes, rng: np.random.Generator) -> bytes:
    if not data:
        return data
    at = int(rng.integers(len(data)))
    new = b"0123456789.-+eE \n\r\t_,;nNaAiIfF\0\xff"
    return data[:at] + bytes([new[rng.integers(len(new))]]) + data[at + 1 :]


def cut_end(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def cut_piece(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data) + 1))
    return data[:start] + data[start + int(rng.integers(1, 400)) :]


def drop_line(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.split(b"\n")
    del lines[rng.integers(len(lines))]
    return b"\n".join(lines)


def double_line(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.split(b"\n")
    at = int(rng.integers(len(lines)))
    return b"\n".join(lines[: at + 1] + lines[at:])


def swap_lines(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.split(b"\n")
    a, b = rng.integers(len(lines), size=2)
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


def replace_field(data: bytes, rng: np.random.Generator) -> bytes:
    fields = data.split(b" ")
    unusual = [
        b"nan",
        b"inf",
        b"-inf",
        b"1e39",
        b"3e38",
        b"-3e38",
        b"1e400",
        b"1e-400",
        b"--1",
        b"1_0",
        b"0x1p3",
        b"",
        b"9" * 400,
        b"0" * 400,
        b".",
        b"1.2.3",
        b"\xd9\xa1",
    ]
    fields[rng.integers(len(fields))] = unusual[rng.integers(len(unusual))]
    return b" ".join(fields)


def change_header(data: bytes, rng: np.random.Generator) -> bytes:
    _, newline, rest = data.partition(b"\n")
    return b"%d" % rng.choice([0, 1, 2, 300, 999999, 10**9]) + newline + rest


DAMAGES = (
    flip_byte,
    overwrite_character,
    cut_end,
    cut_piece,
    drop_line,
    double_line,
    swap_lines,
    replace_field,
    change_header,
)


def clip_or_reason(data: bytes) -> str:
    try:
        bodies, num_frames = read_skeleton(data)
        frames = normalize_clip(bodies)
    except BadFile as error:
        assert error.reason and (error.line is None or error.line >= 1)
        return error.reason
    assert frames.dtype == np.float32 and frames.shape[1:] == (25, 3, 2)
    assert 1 <= len(frames) == min(num_frames, 300)
    assert np.isfinite(frames).all()
    return "clip"


def mutations(raw_files, count: int):
    names = sorted(raw_files)
    for seed in range(count):
        yield mutate(raw_files[names[seed % len(names)]], np.random.default_rng([seed, 2021]))


def test_damaged_files_give_a_clip_or_a_reason(raw_files):
    results = [clip_or_reason(data) for data in mutations(raw_files, 2000)]
    assert 200 < results.count("clip") < 1800


@pytest.mark.slow
def test_damaged_files_are_in_the_store_or_left_out(tmp_path, raw_files):
    """Prepare 500 MB of damaged skeleton files."""
    (tmp_path / "raw").mkdir()
    names = [f"S001C{1 + i % 3:03d}P{1 + i // 180:03d}R001A{1 + i // 3 % 60:03d}" for i in range(2000)]
    for name, data in zip(names, mutations(raw_files, 2000)):
        (tmp_path / "raw" / f"{name}.skeleton").write_bytes(data)
    assert (
        ntu_gendata.main(["--data_path", str(tmp_path / "raw"), "--out_folder", str(tmp_path / "store")]) == 1
    )
    with open(tmp_path / "store" / CLIPS_FILE) as file:
        clips = {row["name"] for row in csv.DictReader(file)}
    info = json.loads((tmp_path / "store" / INFO_FILE).read_text())
    left_out = {item["file"].removesuffix(".skeleton"): item["reason"] for item in info["left_out"]}
    assert clips.isdisjoint(left_out) and clips | set(left_out) == set(names)
    assert all(left_out.values())
    assert np.isfinite(np.load(tmp_path / "store" / FRAMES_FILE, mmap_mode="r")).all()
