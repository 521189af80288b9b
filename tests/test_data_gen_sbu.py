"""Stores of SBU Kinect Interaction: coordinates in meters, folds by pairs of people, damaged files."""

import numpy as np
import pytest
from test_data_gen_ucla import left_out

from data_gen.normalize import normalize_clip
from data_gen.sbu_gendata import FOLDS, main
from dataset.store import open_store
from facts.skeletons import SBU
from utils.errors import UserError

FRAMES = 7


def text(seed=0):
    """Return the content of a file: two upright people in the coordinates of the image, with noise."""
    height = np.array([2, 1.5, 1, 1.5, 1, 0.8, 1.5, 1, 0.8, 0.9, 0.4, 0, 0.9, 0.4, 0])
    side = np.array([0, 0, 0, *[-0.2] * 3, *[0.2] * 3, *[-0.1] * 3, *[0.1] * 3])
    people = [np.stack([(x + side) / 2.56, 1 - height / 1.92, np.full(15, 1.5)], axis=1) for x in (0.4, 2)]
    noise = np.random.default_rng(seed).normal(0, 0.01, (FRAMES, 90))
    rows = np.concatenate(people).reshape(-1) + noise
    return "".join(f"{i + 20}," + ",".join(f"{x:.5g}" for x in row) + "\n" for i, row in enumerate(rows))


def write(folder, pair, action, repetition, content):
    path = folder / pair / f"{action:02d}" / f"{repetition:03d}" / "skeleton_pos.txt"
    path.parent.mkdir(parents=True)
    path.write_text(content)


def prepare(folder, *flags):
    paths = ["--data_path", str(folder / "raw"), "--out_folder", str(folder / "sbu"), "--workers", "1"]
    return main([*paths, *flags])


def test_coordinates_labels_and_folds(tmp_path, capsys):
    pairs = sorted({pair for pairs in FOLDS.values() for pair in pairs})
    for i, pair in enumerate(pairs):
        write(tmp_path / "raw", pair, i % 8 + 1, 3, text(i))
    assert prepare(tmp_path, "--dry-run") == 0 and "fold5" in capsys.readouterr().out
    assert prepare(tmp_path) == 0
    store = open_store(tmp_path / "sbu")
    assert store.names == [f"{pair}_{i % 8 + 1:02d}_003" for i, pair in enumerate(pairs)]
    assert store.labels.tolist() == [i % 8 for i in range(len(pairs))] and store.skeleton == SBU
    assert store.class_names[7] == "punching" and len(store.class_names) == 8
    val = [{p for p, split in zip(pairs, store.splits[fold]) if split == "val"} for fold in FOLDS]
    assert val == [set(pairs) for pairs in FOLDS.values()] and sum(map(len, val)) == len(pairs) == 21
    raw = np.array([line.split(",")[1:] for line in text(0).splitlines()], dtype=float)
    x, y, z = raw.reshape(FRAMES, 2, 15, 3).T  # V x M x T
    meters = np.stack([1.28 - 2.56 * x, 0.96 - 1.92 * y, 1.28 * z], axis=-1).transpose(1, 2, 0, 3)
    assert np.allclose(store.frames[:FRAMES], normalize_clip(meters, SBU), atol=1e-6)


@pytest.mark.parametrize(
    "content",
    ["", "1,2,3\n", text()[:-40], text().replace("20,", "20,,", 1), text().replace("21,", "21,x", 1), "\xff"],
)
def test_bad_files_and_other_paths_are_left_out(tmp_path, content):
    write(tmp_path / "raw", "s01s02", 1, 1, text())
    write(tmp_path / "raw", "s01s02", 1, 2, content)
    write(tmp_path / "raw", "s01s09", 1, 1, text())
    assert prepare(tmp_path) == 1
    assert open_store(tmp_path / "sbu").names == ["s01s02_01_001"]
    reasons = left_out(tmp_path / "sbu")
    assert reasons.pop("s01s09/01/001/skeleton_pos.txt").startswith("the path is not of the form")
    assert [*reasons] == ["s01s02/01/002/skeleton_pos.txt"]


def test_folder_without_clips_raises(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match="no path is like"):
        prepare(tmp_path)
