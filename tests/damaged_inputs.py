"""Shared by the tests of data preparation scripts: randomly damaged files, and what may come of them."""

import os

import numpy as np
import pytest
from conftest import one_line

from dataset.store import open_store
from utils.errors import UserError

CHARACTERS = b"0123456789.-+eE \n\r\t_,;nNaAiIfF\0\xff"
FIELDS = [b"nan", b"-inf", b"1e39", b"-3e38", b"1e400", b"--1", b"1_0", b"0x1p3", b"", b"9" * 400, b"0" * 400]
FIELDS += [b".", b"1.2.3", b"\xd9\xa1"]


def flip_byte(data, rng):
    changed = bytearray(data)
    for at in rng.integers(len(data), size=rng.integers(1, 6)) if data else ():
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite_character(data, rng):
    at = int(rng.integers(len(data) + 1))
    return data[:at] + bytes([CHARACTERS[rng.integers(len(CHARACTERS))]]) + data[at + 1 :]


def cut_end(data, rng):
    return data[: rng.integers(len(data) + 1)]


def cut_piece(data, rng):
    start = int(rng.integers(len(data) + 1))
    return data[:start] + data[start + int(rng.integers(1, 400)) :]


def move_line(data, rng):
    """Drop, double or swap lines."""
    lines = data.split(b"\n")
    a, b = sorted(rng.integers(len(lines), size=2).tolist())
    kinds = ([lines[a]] * 2, [], [lines[b]])
    return b"\n".join(lines[:a] + kinds[rng.integers(3)] + lines[a + 1 :])


def replace_field(data, rng):
    fields = data.split(b" ")
    fields[rng.integers(len(fields))] = FIELDS[rng.integers(len(FIELDS))]
    return b" ".join(fields)


def change_header(data, rng):
    _, newline, rest = data.partition(b"\n")
    return b"%d" % rng.choice([0, 1, 2, 300, 999999, 10**9]) + newline + rest


BYTE_DAMAGES = (flip_byte, overwrite_character, cut_end, cut_piece)
TEXT_DAMAGES = (*BYTE_DAMAGES, move_line, replace_field, change_header)


def damage(data, seed, damages=BYTE_DAMAGES):
    """Apply one or two random damages."""
    rng = np.random.default_rng([seed, 2021])
    for _ in range(rng.integers(1, 3)):
        data = damages[rng.integers(len(damages))](data, rng)
    return data


def store_or_error(main, flags, folder):
    """Run a preparation script; return "store" or "error", after checking the store or the message."""
    flags = [*map(str, flags), "--out_folder", str(folder), "--workers", "1", "--overwrite"]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda descriptor: None)  # takes most of the time of a small store
            code = main(flags)
    except UserError as error:
        assert one_line(str(error)) and str(error).isprintable()
        return "error"
    store = open_store(folder)
    assert code in (0, 1) and store.names == sorted(set(store.names))
    assert np.isfinite(store.frames).all() and store.num_frames.max() <= 300
    return "store"


def same_stores(a, b):
    """Whether two stores have the same bytes."""
    files = sorted(path.name for path in a.iterdir())
    return files == sorted(path.name for path in b.iterdir()) and all(
        (a / name).read_bytes() == (b / name).read_bytes() for name in files
    )
