"""Shared by the tests of data preparation scripts: randomly damaged files, and what may come of them."""

import os

import numpy as np
import pytest
from conftest import one_line
from test_data_gen_mutations import cut_end, cut_piece, flip_byte, overwrite_character

from dataset.store import open_store
from utils.errors import UserError

BYTE_DAMAGES = (flip_byte, overwrite_character, cut_end, cut_piece)


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
